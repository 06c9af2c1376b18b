//! How a row as long as the vocabulary is divided among thread blocks (`kernels/sample.cu`, `kernels/cross_entropy.cu`).

use crate::device::DType;
use crate::device::gpu::Facts;
use crate::device::launch::Variant;

/// Most bytes of a row that a block keeps in shared memory, if the row can be divided further: small enough for several blocks
/// a multiprocessor, some of which read while others compute.
const SLICE: usize = 76 << 10;
/// Shared memory that kernels need for other purposes.
const OWN: usize = 10 << 10;

/// The cut of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slices {
    blocks: usize,
    threads: usize,
    /// Bytes of shared memory a block; 0 if the row is read again in every pass.
    shared: usize,
    v: usize,
}

impl Slices {
    /// For rows of `v` f32 elements.
    pub(super) fn of(facts: &Facts, v: usize) -> Self {
        let bytes = |blocks: usize| v.div_ceil(4).div_ceil(blocks) * 16;
        // The most blocks of a cluster.
        let most = match facts.capability {
            (9 | 10, _) => 16,
            (major, _) if major > 8 => 8,
            _ => 1,
        };
        let blocks = [1, 2, 4, 8]
            .into_iter()
            .find(|blocks| *blocks >= most || bytes(*blocks) <= SLICE)
            .unwrap_or(most);
        let fits = bytes(blocks) + OWN <= facts.shared as usize;
        let most = if fits { 256 } else { 1024 };
        let threads = v.div_ceil(4 * blocks).next_multiple_of(32).clamp(32, most);
        Self { blocks, threads, shared: if fits { bytes(blocks) } else { 0 }, v }
    }

    /// A kernel for rows divided like this.
    pub(super) fn variant(self, source: &'static str, function: &'static str, real: DType) -> Variant {
        let defines = [
            real.define(),
            ("V", self.v as i64),
            ("BLOCK", self.threads as i64),
            ("CLUSTER", self.blocks as i64),
            ("RESIDENT", i64::from(self.shared > 0)),
        ];
        Variant::new(source, function, &defines, self.threads).shared(self.shared)
    }

    /// Blocks for `n` rows.
    pub(super) fn blocks(self, n: usize) -> usize {
        n * self.blocks
    }
}
