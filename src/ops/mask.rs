//! Restricts which tokens may be drawn: `logits[n, v] ← −∞` where bit v of the row's mask is 0.
//!
//! A mask is ⌈V / 32⌉ words, bit v % 32 of word v / 32 for token v. Masks are stored once and rows refer to them by
//! number, since a grammar has few distinct states that many rows share.

use crate::device::tensor::expect_f32;
use crate::device::{DType, Device, Tensor};
use crate::error::Result;

pub use cuda::variants;

/// The mask number of a row that may draw any token.
pub const FREE: u32 = u32::MAX;

/// Masks over V tokens, and which one each row of the logits has.
#[derive(Debug)]
pub struct Masks {
    v: usize,
    /// The words of all masks, one mask after the other.
    words: Vec<u32>,
    /// The mask number of each row (N).
    rows: Tensor,
    /// On a GPU: room for masks, and how many of them are uploaded.
    table: Tensor,
    sent: usize,
}

impl Masks {
    /// None yet, for logits of `v` tokens on `device`.
    pub fn new(v: usize, device: Device) -> Self {
        let empty = || Tensor::empty_on(device, DType::U32);
        Self { v, words: Vec::new(), rows: empty(), table: empty(), sent: 0 }
    }

    fn width(&self) -> usize {
        self.v.div_ceil(32)
    }

    /// Adds a mask that allows no token yet; returns its number.
    pub fn add(&mut self) -> u32 {
        let number = self.words.len() / self.width();
        self.words.resize(self.words.len() + self.width(), 0);
        number as u32
    }

    /// Allows a token in a mask. A mask that rows have already used must not change.
    pub fn allow(&mut self, mask: u32, token: u32) {
        let at = mask as usize * self.width() + token as usize / 32;
        self.words[at] |= 1 << (token % 32);
    }

    /// Whether a mask allows a token.
    pub fn allows(&self, mask: u32, token: u32) -> bool {
        let at = mask as usize * self.width() + token as usize / 32;
        self.words[at] >> (token % 32) & 1 == 1
    }

    /// Sets the number of each row's mask, [`FREE`] for none.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if too little is free; [`Error::Cuda`](crate::Error::Cuda) if the GPU has
    /// failed.
    pub fn set(&mut self, rows: &[u32]) -> Result<()> {
        /// Room is allocated for a multiple of this many masks.
        const ROOM: usize = 128;
        let (width, count) = (self.width(), self.words.len() / self.width());
        assert!(rows.iter().all(|row| *row == FREE || (*row as usize) < count), "masks below {count}");
        self.rows.resize(&[rows.len()])?;
        self.rows.write(0, rows)?;
        if self.rows.device() == Device::Cpu {
            return Ok(());
        }
        if count * width > self.table.len() || self.table.is_empty() {
            self.table.resize(&[count.max(1).next_multiple_of(ROOM), width])?;
            self.sent = 0;
        }
        self.table.write(self.sent * width, &self.words[self.sent * width..])?;
        self.sent = count;
        Ok(())
    }

    /// Sets the logits (N, V) of each row's forbidden tokens to −∞; on a GPU one launch, without waiting for it.
    ///
    /// # Errors
    /// A shape or element type that disagrees.
    pub fn apply(&self, logits: &mut Tensor) -> Result<()> {
        let (n, device) = (self.rows.len(), self.rows.device());
        expect_f32("mask", device, &[("logits", logits, &[n, self.v])])?;
        match device {
            Device::Cuda(gpu) => cuda::apply(gpu, logits, &self.table, &self.rows),
            Device::Cpu => {
                cpu::apply(logits.f32_mut(), &self.words, self.rows.u32());
                Ok(())
            }
        }
    }
}

/// The definition.
pub mod cpu {
    use super::FREE;

    /// See [`super::Masks::apply`].
    pub fn apply(logits: &mut [f32], words: &[u32], rows: &[u32]) {
        let v = logits.len() / rows.len().max(1);
        for (logits, row) in logits.chunks_exact_mut(v.max(1)).zip(rows).filter(|(_, row)| **row != FREE) {
            let mask = &words[*row as usize * v.div_ceil(32)..];
            for (token, z) in logits.iter_mut().enumerate() {
                if mask[token / 32] >> (token % 32) & 1 == 0 {
                    *z = f32::NEG_INFINITY;
                }
            }
        }
    }
}

mod cuda {
    use crate::device::launch::Variant;
    use crate::device::{Gpu, Tensor};
    use crate::error::Result;

    /// The kernel, for any vocabulary.
    pub fn variants() -> [Variant; 1] {
        [Variant::new("mask", "mask_rows", &[], 256)]
    }

    /// See [`super::Masks::apply`].
    pub fn apply(gpu: Gpu, logits: &mut Tensor, masks: &Tensor, rows: &Tensor) -> Result<()> {
        let [n, v] = logits.dims()?;
        if n == 0 {
            return Ok(());
        }
        let [variant] = variants();
        let args = [logits.into(), masks.into(), rows.into(), v.into()];
        // SAFETY: mask_rows(float *logits, const u32 *masks, const u32 *rows, u32 v); `Masks` keeps their sizes.
        unsafe { variant.launch(gpu, [v.div_ceil(1024), n, 1], &args) }
    }
}
