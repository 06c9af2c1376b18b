//! [`DType`]: the element type of a tensor.

use super::compile::Define;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit IEEE 754: activations, gradients, optimiser state.
    F32,
    /// bfloat16. On the CPU: frozen weights, kept as they are on disk and widened exactly where they are used. On a GPU:
    /// activations, too.
    Bf16,
    /// 32-bit unsigned: token ids and positions.
    U32,
}

impl DType {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The load-time constant that makes a kernel's `real` this type.
    pub fn define(self) -> Define {
        ("REAL_IS_FLOAT", i64::from(self == Self::F32))
    }

    /// Neighbouring elements that a kernel reads or writes at once, in rows of `n`: `width_of` in kernels/prelude.cuh.
    pub fn width(self, n: usize) -> usize {
        let whole = 16 / self.size();
        if n.is_multiple_of(whole) { whole } else { 1 }
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::U32 => "u32",
        }
    }
}
