//! [`Place`]: where a model computes, and in which element type.

use crate::device::{DType, Device, Gpu, Tensor};

/// Where a model computes, and the element type of its activations, their gradients, its frozen matrices and its cache: f32
/// on the CPU (where frozen matrices may stay bf16), bf16 or f32 on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The device that holds the memory and does the arithmetic.
    pub device: Device,
    /// The element type.
    pub real: DType,
}

impl Place {
    /// The reference.
    pub const CPU: Self = Self { device: Device::Cpu, real: DType::F32 };

    /// The GPU, in bf16.
    pub fn gpu(gpu: Gpu) -> Self {
        Self { device: Device::Cuda(gpu), real: DType::Bf16 }
    }

    /// An empty tensor for numbers of the place's element type.
    pub fn real(self) -> Tensor {
        Tensor::empty_on(self.device, self.real)
    }

    /// An empty tensor for numbers that are always f32.
    pub fn float(self) -> Tensor {
        Tensor::empty_on(self.device, DType::F32)
    }

    /// An empty tensor for indices.
    pub fn index(self) -> Tensor {
        Tensor::empty_on(self.device, DType::U32)
    }
}
