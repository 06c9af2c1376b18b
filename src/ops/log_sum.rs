//! The logits of some listed tokens of a row, and the log of the summed exponentials of all others:
//!
//! ```text
//! listed_i = logits[token_i],   others = ln Σ_v exp logits[v] over the v that are not listed
//! ```
//! The probability of any set of listed tokens follows from these without subtracting large numbers. Shapes: logits (N, V).

use crate::device::tensor::expect_f32;
use crate::device::{Device, Tensor};
use crate::error::Result;

pub use cuda::variants;

/// Of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// The logits of the listed tokens, in their order.
    pub listed: Vec<f64>,
    /// The log of the sum of the exponentials of all others; −∞ if there are none.
    pub others: f64,
}

impl Sums {
    /// The log of the sum over the whole row.
    pub fn all(&self) -> f64 {
        let max = self.listed.iter().copied().fold(self.others, f64::max);
        let terms = self.listed.iter().chain([&self.others]).map(|x| (x - max).exp());
        if max == f64::NEG_INFINITY { max } else { max + terms.sum::<f64>().ln() }
    }
}

/// The sums of each row of `logits` (N, V) for its list of distinct tokens below V. Overwrites `logits`.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn forward(logits: &mut Tensor, lists: &[Vec<u32>]) -> Result<Vec<Sums>> {
    let [n, v] = logits.dims()?;
    expect_f32("log_sum", logits.device(), &[("logits", logits, &[n, v])])?;
    assert_eq!(lists.len(), n, "a list for every row");
    assert!(lists.iter().flatten().all(|token| (*token as usize) < v), "tokens below {v}");
    match logits.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, logits, lists),
        Device::Cpu => Ok(cpu::forward(logits.f32(), lists)),
    }
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::Sums;

    /// See [`super::forward`].
    pub fn forward(logits: &[f32], lists: &[Vec<u32>]) -> Vec<Sums> {
        let v = logits.len() / lists.len().max(1);
        logits.par_chunks(v.max(1)).zip(lists).map(|(row, list)| sums(row, list)).collect()
    }

    fn sums(row: &[f32], list: &[u32]) -> Sums {
        let mut others: Vec<f32> = row.to_vec();
        for token in list {
            others[*token as usize] = f32::NEG_INFINITY;
        }
        let max = others.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (max, base) = (f64::from(max), if max.is_finite() { f64::from(max) } else { 0.0 });
        let sum: f64 = others.iter().map(|x| (f64::from(*x) - base).exp()).sum();
        Sums {
            listed: list.iter().map(|token| f64::from(row[*token as usize])).collect(),
            others: if sum == 0.0 { max } else { base + sum.ln() },
        }
    }
}

mod cuda {
    use super::Sums;
    use crate::device::gpu::Facts;
    use crate::device::launch::{Arg, Variant};
    use crate::device::{DType, Gpu, Tensor, workspace};
    use crate::error::Result;
    use crate::ops::slices::Slices;

    fn variant(slices: Slices) -> Variant {
        slices.variant("log_sum", "log_sum_rows", DType::F32)
    }

    /// The kernel for a vocabulary of `v`, on a card.
    pub fn variants(facts: &Facts, v: usize) -> Vec<Variant> {
        vec![variant(Slices::of(facts, v))]
    }

    /// See [`super::forward`].
    pub fn forward(gpu: Gpu, logits: &mut Tensor, lists: &[Vec<u32>]) -> Result<Vec<Sums>> {
        let [n, v] = logits.dims()?;
        if n == 0 {
            return Ok(Vec::new());
        }
        let tokens = lists.concat();
        let mut starts = vec![0];
        starts.extend(lists.iter().scan(0, |end, list| {
            *end += list.len() as u32;
            Some(*end)
        }));
        // Starts, then tokens.
        let indices = [&starts[..], &tokens].concat();
        let slices = Slices::of(gpu.facts(), v);
        let variant = variant(slices);
        let found = workspace::with(gpu, DType::U32, &[indices.len()], |on_card| {
            on_card.write(0, &indices)?;
            let tokens = on_card.pointer() + 4 * starts.len() as u64;
            workspace::with(gpu, DType::F32, &[n + lists.iter().map(Vec::len).sum::<usize>()], |out| {
                let args = [(&mut *out).into(), logits.into(), Arg::Pointer(tokens), (&*on_card).into()];
                // SAFETY: log_sum_rows(float *out, float *logits, const u32 *tokens, const u32 *starts): the lists are
                // as long as `starts` says, their tokens below V, and `out` has a place for each and for every row.
                unsafe { variant.launch(gpu, slices.blocks(n), &args)? };
                out.read::<f32>()
            })
        })?;
        let (others, listed) = found.split_at(n);
        let row = |(others, range): (&f32, &[u32])| Sums {
            listed: listed[range[0] as usize..range[1] as usize].iter().map(|x| f64::from(*x)).collect(),
            others: f64::from(*others),
        };
        Ok(others.iter().zip(starts.windows(2)).map(row).collect())
    }
}
