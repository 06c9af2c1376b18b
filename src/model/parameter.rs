//! [`Parameter`]: a weight and, while it is trained, its gradient.

use crate::device::{DType, Tensor};

/// A weight. It is trained iff it has a gradient.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The weight; f32, or bf16 while frozen.
    pub value: Tensor,
    /// ∂loss/∂value, f32, to which every backward adds.
    pub gradient: Option<Tensor>,
}

impl Parameter {
    /// A frozen weight.
    pub fn frozen(value: Tensor) -> Self {
        Self { value, gradient: None }
    }

    /// A trained weight: widened to f32, with a gradient of zeros.
    pub fn trained(value: &Tensor) -> Self {
        let value = value.to_f32();
        let gradient = Some(Tensor::zeros(DType::F32, value.shape()));
        Self { value, gradient }
    }

    /// Starts training a frozen weight.
    pub fn train(&mut self) {
        if self.gradient.is_none() {
            *self = Self::trained(&self.value);
        }
    }
}
