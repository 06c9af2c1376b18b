"""The random numbers of src/device/philox.rs, for tools that must draw what emlab draws.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

import hashlib

import numpy as np

_LOW = np.uint64(0xFFFF_FFFF)
_SHIFT = np.uint64(32)


def key(seed: int, *parts: str) -> tuple[int, int]:
    """The key for a seed and what it decides: the first 64 bits of a SHA-256 over the length-prefixed parts."""
    digest = hashlib.sha256(seed.to_bytes(8, "little"))
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    found = digest.digest()
    return int.from_bytes(found[:4], "little"), int.from_bytes(found[4:8], "little")


def words(stream: tuple[int, int], counters: list[np.ndarray]) -> list[np.ndarray]:
    """Four words for each counter of four words; 32-bit values in uint64 arrays."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counters)
    k0, k1 = stream
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD251_1F53), c2 * np.uint64(0xCD9E_8D57)
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + 0x9E37_79B9) & 0xFFFF_FFFF, (k1 + 0xBB67_AE85) & 0xFFFF_FFFF
    return [c0, c1, c2, c3]


def uniform(stream: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """Uniform numbers in (0, 1) of shape (rows, columns), f32: 24 bits, never 0 or 1."""
    blocks = -(-columns // 4)
    block, row = np.meshgrid(np.arange(blocks), np.arange(rows))
    zero = np.zeros_like(block)
    drawn = np.stack(words(stream, [block, row, zero, zero]), axis=-1).reshape(rows, 4 * blocks)[:, :columns]
    return ((drawn >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(1 / 8_388_608)
