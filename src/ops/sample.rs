//! The next token: greedy, or drawn from the tempered and truncated distribution by the Gumbel-max trick.
//!
//! ```text
//! z = logits / temperature, restricted to the k largest and then to the smallest set whose mass reaches p
//! token = argmax_v (z_v + g_v),   g_v = −ln(−ln u_v),   u_v = Philox(key; v, position)
//! ```
//! argmax of z + g has exactly the distribution softmax(z). The noise depends on (key, position, token) alone, so a
//! draw is the same whatever batch it is made in. Ties go to the lowest id. Shapes: logits (N, V).

use crate::device::philox::Key;
use crate::device::tensor::expect_f32;
use crate::device::{DType, Device, Gpu, Tensor};
use crate::error::{Error, Result};

pub use cuda::variants;

/// How the distribution is shaped before a token is drawn from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest most likely tokens whose mass reaches p; 1 keeps all.
    pub top_p: f32,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0 };

    /// Refuses invalid values.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the value.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::Setting(format!("temperature is {}; it must be 0 or more", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Setting(format!("top_p is {}; it must be above 0 and at most 1", self.top_p)));
        }
        Ok(())
    }
}

/// Everything that one row's draw depends on.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// The stream of (seed, cell, question, sample).
    pub key: Key,
    /// Index of the token in the answer.
    pub position: u32,
    /// Tokens that must not be drawn (the end of text, for instance, while the answer is empty).
    pub forbidden: &'a [u32],
}

/// Draws one token for each row of `logits` (N, V). Overwrites `logits`.
///
/// # Errors
/// A shape or element type that disagrees; a row that is not finite.
pub fn forward(tokens: &mut [u32], logits: &mut Tensor, sampling: Sampling, draws: &[Draw]) -> Result<()> {
    let [n, v] = logits.dims()?;
    expect_f32("sample", logits.device(), &[("logits", logits, &[n, v])])?;
    assert_eq!((tokens.len(), draws.len()), (n, n), "one token and one draw a row");
    match logits.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, tokens, logits, sampling, draws),
        Device::Cpu => finite(cpu::forward(tokens, logits.f32_mut(), sampling, draws)),
    }
}

fn finite(all: bool) -> Result<()> {
    if all {
        return Ok(());
    }
    Err(Error::Run("the model's logits are not finite: its weights or its adapter are damaged".into()))
}

/// The inputs of a batch's draws and the tokens drawn, on the GPU, where a replayed graph finds them.
#[derive(Debug)]
pub struct DrawBatch {
    /// The streams (N, 2) u32.
    keys: Tensor,
    /// Indices of the tokens in their answers (N) u32.
    positions: Tensor,
    /// Tokens that must not be drawn, row after row, and where each row's start (N + 1), u32.
    forbidden: Tensor,
    starts: Tensor,
    /// The tokens drawn, then 1 if a row was not finite (N + 1) u32.
    drawn: Tensor,
}

impl DrawBatch {
    /// For no rows yet.
    pub fn new(gpu: Gpu) -> Self {
        let [keys, positions, forbidden, starts, drawn] =
            std::array::from_fn(|_| Tensor::empty_on(Device::Cuda(gpu), DType::U32));
        Self { keys, positions, forbidden, starts, drawn }
    }

    /// Uploads the inputs of a batch's draws.
    ///
    /// # Errors
    /// [`Error::Memory`] if too little is free; [`Error::Cuda`] if the GPU has failed.
    pub fn set(&mut self, draws: &[Draw]) -> Result<()> {
        let set = |to: &mut Tensor, shape: &[usize], values: &[u32]| {
            to.resize(shape)?;
            to.write(0, values)
        };
        let n = draws.len();
        let keys: Vec<u32> = draws.iter().flat_map(|draw| draw.key.0).collect();
        let positions: Vec<u32> = draws.iter().map(|draw| draw.position).collect();
        let forbidden: Vec<u32> = draws.iter().flat_map(|draw| draw.forbidden).copied().collect();
        let mut starts = vec![0];
        starts.extend(draws.iter().scan(0, |end, draw| {
            *end += draw.forbidden.len() as u32;
            Some(*end)
        }));
        set(&mut self.keys, &[n, 2], &keys)?;
        set(&mut self.positions, &[n], &positions)?;
        set(&mut self.forbidden, &[forbidden.len()], &forbidden)?;
        set(&mut self.starts, &[n + 1], &starts)?;
        set(&mut self.drawn, &[n + 1], &vec![0; n + 1])
    }

    /// Draws, in one launch without waiting for it. Overwrites `logits` (N, V).
    ///
    /// # Errors
    /// A shape or element type that disagrees.
    pub fn draw(&mut self, logits: &mut Tensor, sampling: Sampling) -> Result<()> {
        let ([n], device) = (self.positions.dims()?, self.keys.device());
        let [_, v] = logits.dims()?;
        expect_f32("sample", device, &[("logits", logits, &[n, v])])?;
        let Device::Cuda(gpu) = device else { unreachable!("a batch lies on a GPU") };
        cuda::draw(gpu, self, logits, sampling)
    }

    /// Waits for the draws and copies the tokens of the first rows.
    ///
    /// # Errors
    /// [`Error::Run`] if a row was not finite.
    pub fn read(&self, tokens: &mut [u32]) -> Result<()> {
        let drawn = self.drawn.read::<u32>()?;
        tokens.copy_from_slice(&drawn[..tokens.len()]);
        finite(drawn.last() == Some(&0))
    }
}

/// The definition.
pub mod cpu {
    use rayon::prelude::*;

    use super::{Draw, Sampling};
    use crate::device::philox::open_unit;
    use crate::ops::real::Real;

    /// See [`super::forward`]; false if a row is not finite.
    pub fn forward(tokens: &mut [u32], logits: &mut [f32], sampling: Sampling, draws: &[Draw]) -> bool {
        let v = logits.len() / tokens.len().max(1);
        let rows = tokens.par_iter_mut().zip(logits.par_chunks_mut(v.max(1))).zip(draws);
        rows.map(|((token, row), draw)| {
            for forbidden in draw.forbidden {
                row[*forbidden as usize] = f32::NEG_INFINITY;
            }
            let best = argmax(row);
            *token = best as u32;
            if !row[best].is_finite() {
                return false;
            }
            if sampling.temperature > 0.0 {
                let inverse = 1.0 / sampling.temperature;
                for z in row.iter_mut() {
                    *z *= inverse;
                }
                restrict(row, sampling);
                *token = gumbel_max(row, best, draw);
            }
            true
        })
        .reduce(|| true, |a, b| a && b)
    }

    /// Index of the largest element, the lowest of equals. NaN counts as the largest, so that it is noticed.
    fn argmax(row: &[f32]) -> usize {
        let mut best = 0;
        for (i, z) in row.iter().enumerate() {
            if z.is_nan() {
                return i;
            }
            if *z > row[best] {
                best = i;
            }
        }
        best
    }

    /// Sets the logits that top-k and top-p exclude to −∞.
    fn restrict(row: &mut [f32], sampling: Sampling) {
        let limited = sampling.top_k > 0 && sampling.top_k < row.len();
        if !limited && sampling.top_p >= 1.0 {
            return;
        }
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        // Larger logits first, lower ids first among equals.
        let rank = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
        if limited {
            order.select_nth_unstable_by(sampling.top_k - 1, rank);
            order.truncate(sampling.top_k);
        }
        order.sort_unstable_by(rank);
        if sampling.top_p < 1.0 {
            let max = row[order[0] as usize];
            let mass: Vec<f64> = order.iter().map(|i| f64::from(Real::exp(row[*i as usize] - max))).collect();
            let wanted = f64::from(sampling.top_p) * mass.iter().sum::<f64>();
            let mut reached = 0.0;
            let kept = mass.iter().take_while(|m| {
                let more = reached < wanted;
                reached += **m;
                more
            });
            let kept = kept.count().max(1);
            order.truncate(kept);
        }
        let kept: Vec<(u32, f32)> = order.iter().map(|i| (*i, row[*i as usize])).collect();
        row.fill(f32::NEG_INFINITY);
        for (i, z) in kept {
            row[i as usize] = z;
        }
    }

    /// argmax (z + g), starting from the most likely token. An element can only win if −ln u < e^(z − best), and
    /// −ln u ≥ 1 − u: one exponential rules out almost all of them before a logarithm is needed.
    fn gumbel_max(row: &[f32], start: usize, draw: &Draw) -> u32 {
        let gumbel = |u: f32| -(-u.ln()).ln();
        let noise = |v: usize| open_unit(draw.key.words([v as u32 / 4, draw.position, 0, 0])[v % 4]);
        let mut best = row[start] + gumbel(noise(start));
        let mut token = start;
        let mut u = [0.0f32; 64];
        for (block, z) in row.chunks(64).enumerate() {
            for (quad, u) in u.chunks_exact_mut(4).enumerate() {
                let words = draw.key.words([(block * 16 + quad) as u32, draw.position, 0, 0]);
                for (u, word) in u.iter_mut().zip(words) {
                    *u = open_unit(word);
                }
            }
            // A little slack, so that the rounding of exp never rules out a winner.
            let mut candidate = false;
            for (z, u) in z.iter().zip(&u) {
                candidate |= 1.0 - u <= Real::exp(z - best) * 1.001;
            }
            if !candidate {
                continue;
            }
            for (i, (z, u)) in z.iter().zip(&u).enumerate() {
                let (value, v) = (z + gumbel(*u), block * 64 + i);
                if value > best || (value == best && v < token) {
                    (best, token) = (value, v);
                }
            }
        }
        token as u32
    }
}

mod cuda {
    use std::sync::Mutex;

    use super::{Draw, DrawBatch, Sampling};
    use crate::device::gpu::Facts;
    use crate::device::launch::{Arg, Variant};
    use crate::device::{DType, Gpu, Tensor, turn};
    use crate::error::Result;
    use crate::ops::slices::Slices;

    fn variant(slices: Slices) -> Variant {
        slices.variant("sample", "sample_draw", DType::F32)
    }

    /// The kernel for a vocabulary of `v`, on a card.
    pub fn variants(facts: &Facts, v: usize) -> Vec<Variant> {
        vec![variant(Slices::of(facts, v))]
    }

    /// See [`super::forward`].
    pub fn forward(
        gpu: Gpu,
        tokens: &mut [u32],
        logits: &mut Tensor,
        sampling: Sampling,
        draws: &[Draw],
    ) -> Result<()> {
        static BATCH: Mutex<Option<DrawBatch>> = Mutex::new(None);
        let mut batch = turn::share(&BATCH);
        let batch = batch.get_or_insert_with(|| DrawBatch::new(gpu));
        batch.set(draws)?;
        batch.draw(logits, sampling)?;
        batch.read(tokens)
    }

    /// See [`DrawBatch::draw`].
    pub fn draw(gpu: Gpu, batch: &mut DrawBatch, logits: &mut Tensor, sampling: Sampling) -> Result<()> {
        let [n, v] = logits.dims()?;
        if n == 0 {
            return Ok(());
        }
        let slices = Slices::of(gpu.facts(), v);
        let inverse = if sampling.temperature > 0.0 { 1.0 / sampling.temperature } else { 0.0 };
        let DrawBatch { keys, positions, forbidden, starts, drawn } = batch;
        let args = [
            drawn.into(),
            logits.into(),
            (&*keys).into(),
            (&*positions).into(),
            (&*forbidden).into(),
            (&*starts).into(),
            inverse.into(),
            // A top-k above V keeps everything.
            Arg::U32(sampling.top_k.min(v) as u32),
            sampling.top_p.into(),
        ];
        // SAFETY: sample_draw(u32 *tokens, float *logits, const uint2 *keys, const u32 *positions, const u32 *forbidden, const
        // u32 *starts, float inverse, u32 k, float p); `DrawBatch` keeps their sizes.
        unsafe { variant(slices).launch(gpu, slices.blocks(n), &args) }
    }
}
