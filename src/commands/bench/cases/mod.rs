//! What is measured: each op at the sizes of a model, with the work it must do and random inputs.

mod attention;
mod linear;
mod rows;

use std::cell::Cell;
use std::collections::HashSet;

use emlab::Result;
use emlab::device::philox::Key;
use emlab::device::{DType, Device, Tensor, random};
use emlab::model::cards::Card;
use emlab::model::place::Place;
use emlab::model::spec::Spec;
use emlab::ops::norm::Norm;
use emlab::ops::rope::Heads;
use half::bf16;
use rayon::prelude::*;

/// Rows of a decoding pass: one answer, a few, the study's batch, the largest.
const DECODE: [usize; 5] = [1, 16, 64, 100, 256];

/// The name of the case that measures memory.
pub const COPY: &str = "copy";

/// One run of an op on inputs that it owns.
pub type Work = Box<dyn FnMut() -> Result<()>>;

/// Makes the inputs of a case.
type Prepare = Box<dyn FnOnce(&Inputs) -> Result<Work>>;

/// An op at one set of sizes. (op, model, sizes) name it, here and in the tables of peers.
pub struct Case {
    /// File of `src/ops`, then what of it: "norm add backward".
    pub op: &'static str,
    /// The card whose sizes these are; "any" where sizes are no model's.
    pub model: String,
    /// "part=qkv N=4096 O=6144 I=4096".
    pub sizes: String,
    /// Multiply-adds × 2 that the op must do; 0 where they do not count beside its bytes.
    pub flops: f64,
    /// Bytes that the op must move: each input read once, each output written once.
    pub bytes: f64,
    prepare: Prepare,
}

impl Case {
    /// Makes the inputs.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn prepare(self, inputs: &Inputs) -> Result<Work> {
        (self.prepare)(inputs)
    }

    /// Whether the two are one.
    pub fn same(&self, other: &Self) -> bool {
        (self.op, &self.model, &self.sizes) == (other.op, &other.model, &other.sizes)
    }

    /// Whether `--only NAME` means this case: its op, or the first word of it.
    pub fn is(&self, name: &str) -> bool {
        self.op == name || self.op.split(' ').next() == Some(name)
    }
}

/// The cases whose rates are the limits of the machine are never left out: copies, and a product as large as any.
///
/// # Errors
/// If the card describes no model that this engine computes.
pub fn limits(model: &Card, n: usize, inputs: &Inputs) -> Result<Vec<Case>> {
    let mut limits = rows::copies(inputs);
    limits.push(linear::product(&Model::new(model, n, inputs)?));
    Ok(limits)
}

/// Every case of these models for passes of `n` tokens, ordered by op.
///
/// # Errors
/// As [`limits`].
pub fn all(models: &[Card], n: usize, inputs: &Inputs) -> Result<Vec<Case>> {
    let groups = [rows::embedding, rows::norm, rows::rope, rows::glu, linear::cases, attention::cases];
    let groups = groups.into_iter().chain([rows::linear_cross_entropy, rows::sample]);
    let models = models.iter().map(|card| Model::new(card, n, inputs)).collect::<Result<Vec<Model>>>()?;
    let mut cases: Vec<Case> = groups.flat_map(|group| models.iter().flat_map(group)).collect();
    cases.extend(rows::adamw(n));
    // A small pass may have as many rows as one of decoding.
    let mut seen = HashSet::new();
    cases.retain(|case| seen.insert((case.op, case.model.clone(), case.sizes.clone())));
    Ok(cases)
}

/// What cases are made from.
struct Model {
    name: String,
    spec: Spec,
    norm: Norm,
    /// N, rows of a training pass.
    n: usize,
    /// Bytes of an activation and of a frozen weight.
    real: usize,
    weight: usize,
}

impl Model {
    fn new(card: &Card, n: usize, inputs: &Inputs) -> Result<Self> {
        let ([real, weight], spec) = ([inputs.place.real, inputs.frozen()].map(DType::size), card.spec()?);
        let norm = Norm { gain: spec.gain, eps: spec.norm_eps };
        Ok(Self { name: card.name.clone(), spec, norm, n, real, weight })
    }

    fn heads(&self) -> Heads {
        Heads { query: self.spec.heads, kv: self.spec.kv_heads, dim: self.spec.head_dim }
    }

    fn case(
        &self,
        op: &'static str,
        sizes: String,
        [flops, bytes]: [usize; 2],
        prepare: impl FnOnce(&Inputs) -> Result<Work> + 'static,
    ) -> Case {
        let (model, prepare) = (self.name.clone(), Box::new(prepare));
        Case { op, model, sizes, flops: flops as f64, bytes: bytes as f64, prepare }
    }
}

/// Makes inputs: normal random numbers, each tensor's its own. Zeros would flatter: they switch few transistors and
/// let the clock rise.
pub struct Inputs {
    /// Where the ops run.
    pub place: Place,
    made: Cell<u64>,
}

impl Inputs {
    pub fn new(place: Place) -> Self {
        Self { place, made: Cell::new(0) }
    }

    /// The element type of frozen matrices: on the CPU bf16, as they lie on disk.
    fn frozen(&self) -> DType {
        if self.place.device == Device::Cpu { DType::Bf16 } else { self.place.real }
    }

    /// Activations and their gradients, N(0, 1).
    fn real(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(self.place.real, shape, 1.0)
    }

    /// What is always f32, N(0, 1).
    fn float(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(DType::F32, shape, 1.0)
    }

    /// A frozen matrix, N(0, 0.02²).
    fn weight(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(self.frozen(), shape, 0.02)
    }

    /// An adapter's matrix, N(0, 0.02²).
    fn adapter(&self, shape: &[usize]) -> Result<Tensor> {
        self.random(self.place.real, shape, 0.02)
    }

    /// Random numbers below `bound`.
    fn indices(&self, n: usize, bound: usize) -> Vec<u32> {
        let key = self.key();
        (0..n as u32).map(|i| key.words([i, 0, 0, 0])[0] % bound as u32).collect()
    }

    /// Given numbers.
    fn given(&self, shape: &[usize], values: Vec<u32>) -> Result<Tensor> {
        Tensor::from_u32(shape, values).to(self.place.device)
    }

    /// Room for a result that may be rounded.
    fn result(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::zeros_on(self.place.device, self.place.real, shape)
    }

    /// Room for a result that is always f32.
    fn float_result(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::zeros_on(self.place.device, DType::F32, shape)
    }

    fn key(&self) -> Key {
        self.made.set(self.made.get() + 1);
        Key::new(self.made.get(), &["bench"])
    }

    fn random(&self, dtype: DType, shape: &[usize], deviation: f32) -> Result<Tensor> {
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
