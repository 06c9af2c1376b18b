//! [`Parameter`]: a weight and, while it is trained, its gradient.

use half::bf16;

use crate::device::{DType, Device, Tensor, memory};
use crate::error::Result;
use crate::model::place::Place;

/// A weight. It is trained iff it has a gradient.
#[derive(Debug)]
pub struct Parameter {
    /// The weight as the ops use it.
    pub value: Tensor,
    /// The weight in f32, if it is trained and `value` is rounded to bf16.
    pub master: Option<Tensor>,
    /// ∂loss/∂value, f32, to which every backward adds.
    pub gradient: Option<Tensor>,
}

impl Parameter {
    /// A frozen weight.
    pub fn frozen(value: Tensor) -> Self {
        Self { value, master: None, gradient: None }
    }

    /// A trained weight from its f32 values on the host, with a gradient of zeros. `value` is f32 for norm gains, and of
    /// the place's element type for matrices.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if too little is free on a GPU.
    pub fn trained(host: &Tensor, place: Place) -> Result<Self> {
        let gradient =
            memory::purpose("gradients", || Tensor::zeros_on(place.device, DType::F32, host.shape()))
                .map(Some)?;
        let full = host.to(place.device)?;
        if place.real == DType::F32 || host.shape().len() == 1 {
            return Ok(Self { value: full, master: None, gradient });
        }
        Ok(Self { value: host.to_bf16().to(place.device)?, master: Some(full), gradient })
    }

    /// Starts training a frozen weight.
    ///
    /// # Errors
    /// As [`trained`](Self::trained).
    pub fn train(&mut self, place: Place) -> Result<()> {
        if self.gradient.is_none() {
            let host = self.value.to(Device::Cpu)?.to_f32();
            *self = Self::trained(&host, place)?;
        }
        Ok(())
    }

    /// The most precise form of the weight.
    pub fn full(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(&self.value)
    }

    /// Overwrites the elements from `first` on.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
    pub fn write(&mut self, first: usize, values: &[f32]) -> Result<()> {
        if let Some(master) = &mut self.master {
            master.write(first, values)?;
        }
        if self.value.dtype() == DType::F32 {
            return self.value.write(first, values);
        }
        let rounded: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
        self.value.write(first, &rounded)
    }
}
