//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers as a pure
//! function of a key and a counter. A draw depends on its purpose alone, not on its batch, its thread, or on interruptions of
//! the run.

use sha2::{Digest, Sha256};

/// Names one stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub [u32; 2]);

impl Key {
    /// The stream of a seed and a purpose: the first 64 bits of a SHA-256 over both.
    /// Parts are length-prefixed, so ("a", "bc") and ("ab", "c") differ.
    pub fn new(seed: u64, parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        let word = |i: usize| u32::from_le_bytes([digest[i], digest[i + 1], digest[i + 2], digest[i + 3]]);
        Self([word(0), word(4)])
    }

    /// The four words at `counter`.
    #[inline(always)]
    pub fn words(self, counter: [u32; 4]) -> [u32; 4] {
        let [mut k0, mut k1] = self.0;
        let [mut c0, mut c1, mut c2, mut c3] = counter;
        for _ in 0..10 {
            let p0 = u64::from(c0) * 0xD251_1F53;
            let p1 = u64::from(c2) * 0xCD9E_8D57;
            (c0, c1, c2, c3) =
                ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        [c0, c1, c2, c3]
    }

    /// Uniform number `i` of row `row`, in the open interval (0, 1): 24 bits, never 0 or 1.
    #[inline(always)]
    pub fn uniform(self, row: u32, i: u32) -> f32 {
        open_unit(self.words([i / 4, row, 0, 0])[(i % 4) as usize])
    }

    /// A permutation of `0..n` (Fisher–Yates), the same for the same key.
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            // 64 random bits scaled to i + 1 values: a bias below 2⁻³² for any list that fits in memory.
            let [lo, hi, ..] = self.words([i as u32, (i as u64 >> 32) as u32, 1, 0]);
            let random = u64::from(lo) | u64::from(hi) << 32;
            let j = ((u128::from(random) * (i as u128 + 1)) >> 64) as usize;
            order.swap(i, j);
        }
        order
    }
}

/// 32 random bits → the open interval (0, 1), on a grid of 2⁻²³ offset by half a step.
#[inline(always)]
pub fn open_unit(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(Key([0, 0]).words([0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            Key([u32::MAX; 2]).words([u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            Key([0xa409_3822, 0x299f_31d0]).words([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutation_is_one() {
        let mut seen = Key::new(7, &["order"]).permutation(1000);
        assert_ne!(seen[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..1000));
    }

    #[test]
    fn unit_interval_is_open() {
        assert!(open_unit(0) > 0.0 && open_unit(u32::MAX) < 1.0);
    }
}
