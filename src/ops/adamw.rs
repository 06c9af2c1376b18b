//! `AdamW`: one step of Adam with decoupled weight decay and bias correction.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²
//! p ← p (1 − lr · decay) − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//! Shapes: p, m, v and g have one shape, which may be any. Source: Loshchilov & Hutter, arXiv 1711.05101, in the form and order of
//! `torch.optim.AdamW`.

use crate::device::tensor::{expect_device, expect_dtype, expect_f32, expect_shape};
use crate::device::{DType, Device, Tensor};
use crate::error::Result;

pub use cuda::variants;

/// The scalars of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// β₁ and β₂.
    pub betas: [f32; 2],
    /// ε.
    pub eps: f32,
    /// Decoupled weight decay.
    pub decay: f32,
    /// t, counted from 1.
    pub step: u32,
}

impl AdamW {
    /// lr / (1 − β₁ᵗ) and √(1 − β₂ᵗ). In f32 they would lose digits when β₂ is near 1.
    fn corrected(self) -> [f32; 2] {
        let [first, second] = self.betas.map(|beta| 1.0 - f64::from(beta).powi(self.step as i32));
        [(f64::from(self.lr) / first) as f32, second.sqrt() as f32]
    }
}

/// A trained tensor and its optimiser state, all of one shape, f32.
#[derive(Debug)]
pub struct Trained<'a> {
    /// The parameter.
    pub p: &'a mut Tensor,
    /// The mean of the gradient.
    pub m: &'a mut Tensor,
    /// The mean of its square.
    pub v: &'a mut Tensor,
    /// Receives p rounded to bf16, if that is what the ops use.
    pub copy: Option<&'a mut Tensor>,
    /// The gradient; zero after the step.
    pub g: &'a mut Tensor,
    /// Whether the weight decays.
    pub decays: bool,
}

/// One step of every tensor; the gradients are `scale · g` (clipping), and zero afterwards.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn step(all: &mut [Trained], scale: f32, adamw: AdamW) -> Result<()> {
    let Some(device) = all.first().map(|t| t.g.device()) else { return Ok(()) };
    for Trained { p, m, v, copy, g, .. } in all.iter() {
        let shape = g.shape();
        expect_f32("adamw", device, &[("g", g, shape), ("p", p, shape), ("m", m, shape), ("v", v, shape)])?;
        if let Some(copy) = copy {
            expect_shape("adamw", "copy", copy, shape)?;
            expect_device("adamw", "copy", copy, device)?;
            expect_dtype("adamw", "copy", copy, DType::Bf16)?;
        }
    }
    match device {
        Device::Cuda(gpu) => cuda::step(gpu, all, scale, adamw),
        Device::Cpu => {
            for Trained { p, m, v, copy, g, decays } in all {
                let adamw = AdamW { decay: if *decays { adamw.decay } else { 0.0 }, ..adamw };
                cpu::step([p.f32_mut(), m.f32_mut(), v.f32_mut()], g.f32(), scale, adamw);
                if let Some(copy) = copy {
                    **copy = p.to_bf16();
                }
                g.clear()?;
            }
            Ok(())
        }
    }
}

/// Σ g² over all of `gradients`, in double precision and in a fixed order: the square of the global norm.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
pub fn square_sum(gradients: &[&Tensor]) -> Result<f64> {
    let Some(device) = gradients.first().map(|g| g.device()) else { return Ok(0.0) };
    for g in gradients {
        expect_f32("square_sum", device, &[("g", g, g.shape())])?;
    }
    match device {
        Device::Cpu => Ok(gradients.iter().map(|g| cpu::square_sum(g.f32())).sum()),
        Device::Cuda(gpu) => cuda::square_sum(gpu, gradients),
    }
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::AdamW;

    const CHUNK: usize = 1 << 14;

    /// See [`super::step`].
    pub fn step([p, m, v]: [&mut [f32]; 3], g: &[f32], scale: f32, adamw: AdamW) {
        let ([b1, b2], [rate, root]) = (adamw.betas, adamw.corrected());
        let keep = 1.0 - adamw.lr * adamw.decay;
        let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        p.par_chunks_mut(CHUNK).zip(moments).zip(g.par_chunks(CHUNK)).for_each(|((p, (m, v)), g)| {
            for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                let g = g * scale;
                *m += (g - *m) * (1.0 - b1);
                *v = *v * b2 + g * g * (1.0 - b2);
                *p = *p * keep - rate * (*m / (v.sqrt() / root + adamw.eps));
            }
        });
    }

    /// See [`super::square_sum`].
    pub fn square_sum(g: &[f32]) -> f64 {
        let parts: Vec<f64> =
            g.par_chunks(CHUNK).map(|g| g.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()).collect();
        parts.into_iter().sum()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Two steps by the formula, in double precision.
        #[test]
        fn follows_the_formula() {
            let gradients = [[0.5f32, -2.0, 1e-3], [-0.25, 0.5, 4e-3]];
            let (mut p, mut m, mut v) = ([1.0f32, -0.5, 0.25], [0.0f32; 3], [0.0f32; 3]);
            let (mut p64, mut m64, mut v64) = ([1.0f64, -0.5, 0.25], [0.0f64; 3], [0.0f64; 3]);
            for (t, g) in (1..).zip(&gradients) {
                let adamw = AdamW { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1, step: t };
                step([&mut p, &mut m, &mut v], g, 2.0, adamw);
                for i in 0..3 {
                    let g = 2.0 * f64::from(g[i]);
                    m64[i] = 0.9 * m64[i] + 0.1 * g;
                    v64[i] = 0.999 * v64[i] + 0.001 * g * g;
                    let (mh, vh) =
                        (m64[i] / (1.0 - 0.9f64.powi(t as i32)), v64[i] / (1.0 - 0.999f64.powi(t as i32)));
                    p64[i] = p64[i] * (1.0 - 0.01 * 0.1) - 0.01 * mh / (vh.sqrt() + 1e-8);
                    assert!((f64::from(p[i]) - p64[i]).abs() < 1e-6, "step {t}, element {i}");
                }
            }
        }
    }
}

mod cuda {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::{AdamW, Trained};
    use crate::device::launch::{Arg, Variant};
    use crate::device::{DType, Device, Gpu, Tensor, memory, turn, workspace};
    use crate::error::Result;

    /// Elements of a block's work, at most: `CHUNK` in kernels/adamw.cu.
    const CHUNK: usize = 4096;
    /// `struct Chunk` there, in 32-bit words.
    const WORDS: usize = 12;

    /// The kernels: a step, the sum of squares of every chunk, and the sum of those.
    pub fn variants() -> [Variant; 3] {
        [("adamw_steps", 256), ("adamw_square_sums", 256), ("adamw_total", 1024)]
            .map(|(function, threads)| Variant::new("adamw", function, &[DType::Bf16.define()], threads))
    }

    /// Addresses of p, m, v, g and the copy, 0 for none; elements; whether they decay.
    type Addresses = ([u64; 5], usize, bool);

    /// Calls `f` with the table of all chunks of these tensors, and their number. Tables are kept: tensors seldom move.
    fn with_table<R>(
        gpu: Gpu,
        places: &[Addresses],
        f: impl FnOnce(&Tensor, usize) -> Result<R>,
    ) -> Result<R> {
        static TABLES: Mutex<Option<HashMap<Vec<Addresses>, Tensor>>> = Mutex::new(None);
        let mut tables = turn::share(&TABLES);
        let tables = tables.get_or_insert_default();
        if !tables.contains_key(places) {
            if tables.len() >= 16 {
                tables.clear();
            }
            let words: Vec<u32> = places.iter().flat_map(|place| chunks(*place)).flatten().collect();
            let host = Tensor::from_u32(&[words.len() / WORDS, WORDS], words);
            let table = memory::purpose("optimiser", || host.to(Device::Cuda(gpu)))?;
            tables.insert(places.to_vec(), table);
        }
        let table = &tables[places];
        f(table, table.shape()[0])
    }

    /// The entries of one tensor.
    fn chunks((pointers, n, decays): Addresses) -> impl Iterator<Item = [u32; WORDS]> {
        (0..n).step_by(CHUNK).map(move |first| {
            let mut words = [0; WORDS];
            for (i, pointer) in pointers.into_iter().enumerate() {
                // All but the copy, the last, hold 4 bytes an element.
                let at = if pointer == 0 { 0 } else { pointer + (first * if i == 4 { 2 } else { 4 }) as u64 };
                words[2 * i..][..2].copy_from_slice(&[at as u32, (at >> 32) as u32]);
            }
            words[10] = CHUNK.min(n - first) as u32;
            words[11] = f32::from(u8::from(decays)).to_bits();
            words
        })
    }

    /// See [`super::step`].
    pub fn step(gpu: Gpu, all: &mut [Trained], scale: f32, adamw: AdamW) -> Result<()> {
        let place = |t: &Trained| {
            let copy = t.copy.as_ref().map_or(0, |copy| copy.pointer());
            ([t.p.pointer(), t.m.pointer(), t.v.pointer(), t.g.pointer(), copy], t.g.len(), t.decays)
        };
        let places: Vec<Addresses> = all.iter().map(place).filter(|(_, n, _)| *n > 0).collect();
        if places.is_empty() {
            return Ok(());
        }
        let [steps, ..] = variants();
        let ([b1, b2], [rate, root]) = (adamw.betas, adamw.corrected());
        with_table(gpu, &places, |table, count| {
            let floats = [scale, b1, b2, adamw.eps, rate, root, adamw.lr * adamw.decay].map(Arg::F32);
            let args = [&[table.into()], &floats[..], &[Arg::U32(1)]].concat();
            // SAFETY: adamw_steps(const Chunk *chunks, float scale, float b1, float b2, float eps, float rate, float root,
            // float lr_decay, u32 clear); the table names the tensors that the caller holds, whose sizes were checked.
            unsafe { steps.launch(gpu, count, &args) }
        })
    }

    /// See [`super::square_sum`].
    pub fn square_sum(gpu: Gpu, gradients: &[&Tensor]) -> Result<f64> {
        let place = |g: &&&Tensor| !g.is_empty();
        let places: Vec<Addresses> =
            gradients.iter().filter(place).map(|g| ([0, 0, 0, g.pointer(), 0], g.len(), false)).collect();
        if places.is_empty() {
            return Ok(0.0);
        }
        with_table(gpu, &places, |table, count| {
            // Doubles: the total, then a sum for every chunk.
            workspace::with(gpu, DType::U32, &[2 + 2 * count], |doubles| {
                let [_, square_sums, add_up] = variants();
                let (total, sums) = (doubles.pointer(), doubles.pointer() + 8);
                let args = [Arg::Pointer(sums), table.into()];
                // SAFETY: adamw_square_sums(double *sums, const Chunk *chunks), a block a chunk.
                unsafe { square_sums.launch(gpu, count, &args)? };
                let args = [Arg::Pointer(total), Arg::Pointer(sums), count.into()];
                // SAFETY: adamw_total(double *total, const double *sums, u32 count).
                unsafe { add_up.launch(gpu, 1, &args)? };
                doubles.resize(&[2])?;
                let words = doubles.read::<u32>()?;
                Ok(f64::from_bits(u64::from(words[0]) | u64::from(words[1]) << 32))
            })
        })
    }
}
