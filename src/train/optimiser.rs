//! [`Optimiser`]: AdamW over all trained parameters of a model, with clipping by the gradient's global norm.

use super::clip;
use crate::device::{DType, Tensor, memory};
use crate::error::Result;
use crate::model::parameter::Parameter;
use crate::model::transformer::Transformer;
use crate::ops::adamw::{self, AdamW, Trained};

/// `AdamW`'s running means of one parameter's gradient.
pub struct Moments {
    /// Of the gradient.
    pub mean: Tensor,
    /// Of its square.
    pub square: Tensor,
}

/// The state of AdamW.
pub struct Optimiser {
    /// One a trained parameter, in the order of [`Transformer::trainable`].
    pub moments: Vec<Moments>,
}

impl Optimiser {
    /// Zeros for everything that is trained.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if too little is free on a GPU.
    pub fn new(model: &Transformer) -> Result<Self> {
        let zeros =
            |parameter: &Parameter| Tensor::zeros_on(model.place.device, DType::F32, parameter.value.shape());
        let moments = |(_, parameter): (String, &Parameter)| {
            Ok(Moments { mean: zeros(parameter)?, square: zeros(parameter)? })
        };
        let all = || model.trainable().into_iter().map(moments).collect::<Result<_>>();
        Ok(Self { moments: memory::purpose("optimiser", all)? })
    }

    /// Applies the gradients, scaled so that their global norm is at most `max_norm` (0: as they are), and clears them.
    /// Returns the norm before; if it is not finite, nothing is changed.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
    pub fn step(&mut self, model: &mut Transformer, adamw: AdamW, max_norm: f64) -> Result<f64> {
        let mut parameters = model.trainable_mut();
        let gradients: Vec<&Tensor> =
            parameters.iter().filter_map(|(_, parameter)| parameter.gradient.as_ref()).collect();
        let norm = adamw::square_sum(&gradients)?.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let moments = self.moments.iter_mut();
        let trained =
            parameters.iter_mut().zip(moments).filter_map(|((_, parameter), Moments { mean, square })| {
                let Parameter { value, master, gradient: Some(g) } = &mut **parameter else { return None };
                // As the reference trainer: matrices decay, the gains of norms do not.
                let decays = value.shape().len() > 1;
                let (p, copy) = match master {
                    Some(master) => (master, Some(value)),
                    None => (value, None),
                };
                Some(Trained { p, m: mean, v: square, copy, g, decays })
            });
        adamw::step(&mut trained.collect::<Vec<_>>(), clip::factor(norm, max_norm) as f32, adamw)?;
        Ok(norm)
    }
}
