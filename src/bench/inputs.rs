//! [`Inputs`]: random tensors for the ops that are timed.

use std::cell::Cell;

use half::bf16;
use rayon::prelude::*;

use crate::Result;
use crate::device::philox::Key;
use crate::device::{DType, Device, Tensor, random};
use crate::model::place::Place;

/// Makes inputs: normal random numbers, each tensor's its own. Zeros would flatter: they switch few transistors and
/// let the clock rise.
pub struct Inputs {
    /// Where the ops run.
    pub place: Place,
    made: Cell<u64>,
}

impl Inputs {
    /// Inputs for ops that run at `place`.
    pub fn new(place: Place) -> Self {
        Self { place, made: Cell::new(0) }
    }

    /// The element type of frozen matrices: on the CPU bf16, as they lie on disk.
    pub(super) fn frozen(&self) -> DType {
        if self.place.device == Device::Cpu { DType::Bf16 } else { self.place.real }
    }

    /// Activations and their gradients, N(0, 1).
    pub(super) fn real(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(self.place.real, shape, 1.0)
    }

    /// What is always f32, N(0, 1).
    pub(super) fn float(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(DType::F32, shape, 1.0)
    }

    /// A frozen matrix, N(0, 0.02²).
    pub(super) fn weight(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(self.frozen(), shape, 0.02)
    }

    /// An adapter's matrix, N(0, 0.02²).
    pub(super) fn adapter(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(self.place.real, shape, 0.02)
    }

    /// Random numbers below `bound`.
    pub(super) fn indices(&self, n: usize, bound: usize) -> Vec<u32> {
        let key = self.key();
        (0..n as u32).map(|i| key.words([i, 0, 0, 0])[0] % bound as u32).collect()
    }

    /// Given numbers.
    pub(super) fn given(&self, shape: &[usize], values: Vec<u32>) -> Result<Tensor> {
        Tensor::from_u32(shape, values).to(self.place.device)
    }

    /// Room for a result that may be rounded.
    pub(super) fn result(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::zeros_on(self.place.device, self.place.real, shape)
    }

    /// Room for a result that is always f32.
    pub(super) fn float_result(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::zeros_on(self.place.device, DType::F32, shape)
    }

    pub(super) fn key(&self) -> Key {
        self.made.set(self.made.get() + 1);
        Key::new(self.made.get(), &["bench"])
    }

    pub(super) fn random(&self, dtype: DType, shape: &[usize], deviation: f32) -> Result<Tensor> {
        let (key, n) = (self.key(), shape.iter().product());
        if self.place.device != Device::Cpu {
            let mut tensor = Tensor::empty_on(self.place.device, dtype);
            tensor.resize(shape)?;
            random::normal(&mut tensor, 0, n, key, deviation)?;
            return Ok(tensor);
        }
        // Uniform with the same deviation, a million of them over and over: making them takes longer than the op.
        let number = |i: usize| (key.uniform(0, i as u32) - 0.5) * deviation * 12f32.sqrt();
        let block: Vec<f32> = (0..n.min(1 << 20)).into_par_iter().map(number).collect();
        let all = block.iter().cycle().take(n);
        Ok(match dtype {
            DType::Bf16 => Tensor::from_bf16(shape, all.map(|x| bf16::from_f32(*x)).collect()),
            _ => Tensor::from_f32(shape, all.copied().collect()),
        })
    }
}
