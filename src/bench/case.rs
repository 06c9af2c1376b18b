//! [`Case`]: one op at one set of sizes, with the work it must do; and the sizes of a model, from which cases are made.

use super::inputs::Inputs;
use crate::Result;
use crate::device::DType;
use crate::model::cards::Card;
use crate::model::spec::Spec;
use crate::ops::norm::Norm;
use crate::ops::rope::Heads;

/// Rows of a decoding pass: one answer, a few, the study's batch, the largest.
pub(super) const DECODE: [usize; 5] = [1, 16, 64, 100, 256];

/// The name of the case that measures memory.
pub const COPY: &str = "copy";

/// One run of an op on inputs that it owns.
pub type Work = Box<dyn FnMut() -> Result<()>>;

/// Makes the inputs of a case.
pub(super) type Prepare = Box<dyn FnOnce(&Inputs) -> Result<Work>>;

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
    pub(super) prepare: Prepare,
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

/// The sizes of a model and of a pass, from which cases are made.
pub(super) struct ModelSizes {
    pub(super) name: String,
    pub(super) spec: Spec,
    pub(super) norm: Norm,
    /// N, rows of a training pass.
    pub(super) n: usize,
    /// Bytes of an activation and of a frozen weight.
    pub(super) real: usize,
    pub(super) weight: usize,
}

impl ModelSizes {
    pub(super) fn new(card: &Card, n: usize, inputs: &Inputs) -> Result<Self> {
        let ([real, weight], spec) = ([inputs.place.real, inputs.frozen()].map(DType::size), card.spec()?);
        let norm = Norm { gain: spec.gain, eps: spec.norm_eps };
        Ok(Self { name: card.name.clone(), spec, norm, n, real, weight })
    }

    pub(super) fn heads(&self) -> Heads {
        Heads { query: self.spec.heads, kv: self.spec.kv_heads, dim: self.spec.head_dim }
    }

    pub(super) fn case(
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
