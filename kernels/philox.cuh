// Philox4x32-10: the same random numbers as src/device/philox.rs, which says what it is and where it comes from.
#pragma once
#include "prelude.cuh"

// The four words at `counter` of the stream (k0, k1).
__device__ __forceinline__ uint4 philox(u32 k0, u32 k1, uint4 counter) {
    u32 c0 = counter.x, c1 = counter.y, c2 = counter.z, c3 = counter.w;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 hi0 = __umulhi(c0, 0xD2511F53u), lo0 = c0 * 0xD2511F53u;
        u32 hi1 = __umulhi(c2, 0xCD9E8D57u), lo1 = c2 * 0xCD9E8D57u;
        c0 = hi1 ^ c1 ^ k0, c1 = lo1, c2 = hi0 ^ c3 ^ k1, c3 = lo0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// 32 random bits → the open interval (0, 1).
__device__ __forceinline__ float open_unit(u32 word) { return ((float)(word >> 9) + 0.5f) * (1.0f / 8388608.0f); }
