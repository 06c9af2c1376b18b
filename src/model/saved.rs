//! [`Saved`]: everything that a pass writes, kept from pass to pass: what a forward leaves for its backward, and the scratch
//! of both.

use crate::device::Tensor;
use crate::error::Result;
use crate::model::activations::{Dimensions, Ends, Layer, Scratch, Table};
use crate::model::pass::PassInputs;
use crate::model::place::Place;
use crate::model::spec::Spec;

/// The inputs, the activations and the scratch of a pass. Grows to the largest pass it is used for.
#[derive(Debug)]
pub struct Saved {
    pub(super) pass: PassInputs,
    pub(super) activations: Activations,
    pub(super) scratch: Scratch,
}

/// What a forward pass computes.
#[derive(Debug)]
pub(super) struct Activations {
    pub(super) sizes: Dimensions,
    /// One a layer if all are kept, else two that the layers use in turn.
    pub(super) layers: Vec<Layer>,
    /// When a backward pass computes layers again: the residual stream at the input of each (N, C).
    pub(super) inputs: Vec<Tensor>,
    pub(super) ends: Ends,
}

impl Activations {
    /// Gives everything the shapes of a pass over `n` rows.
    pub(super) fn resize(&mut self, n: usize) -> Result<()> {
        for layer in &mut self.layers {
            layer.resize(&self.sizes, n)?;
        }
        self.ends.resize(&self.sizes, n)
    }
}

impl Saved {
    /// For training: keeps every layer.
    pub fn for_training(spec: &Spec, place: Place) -> Self {
        Self::new(spec, place, spec.layers, 0)
    }

    /// For training in little memory: keeps every layer's input, and the backward computes the layer again.
    pub fn for_recomputing(spec: &Spec, place: Place) -> Self {
        Self::new(spec, place, spec.layers.min(2), spec.layers)
    }

    /// For inference: keeps the current layer and the one before it.
    pub fn for_inference(spec: &Spec, place: Place) -> Self {
        Self::new(spec, place, spec.layers.min(2), 0)
    }

    fn new(spec: &Spec, place: Place, layers: usize, inputs: usize) -> Self {
        let sizes = Dimensions::of(spec);
        Self {
            pass: PassInputs::new(place),
            activations: Activations {
                layers: (0..layers).map(|_| Layer::new(&sizes, place)).collect(),
                inputs: (0..inputs).map(|_| place.real()).collect(),
                ends: Ends::new(&sizes, place),
                sizes,
            },
            scratch: Scratch::new(&sizes, place),
        }
    }

    /// The input of the head (N, C), after the final norm.
    pub fn hidden(&self) -> &Tensor {
        &self.activations.ends.hidden
    }

    /// ∂loss/∂hidden (N, C), after [`loss_gradient`](crate::model::transformer::Transformer::loss_gradient).
    pub fn dhidden(&self) -> &Tensor {
        &self.activations.ends.dhidden
    }

    /// Whether a backward pass finds what it needs of every layer.
    pub(super) fn holds(&self, layers: usize) -> bool {
        self.activations.layers.len() == layers || self.activations.inputs.len() == layers
    }

    /// Bytes in use.
    #[cfg(test)]
    pub(super) fn used_bytes(&mut self) -> usize {
        let Self { pass, activations: Activations { sizes, layers, inputs, ends }, scratch } = self;
        let layers: usize = layers.iter_mut().map(|layer| layer.used_bytes(sizes)).sum();
        let inputs: usize = inputs.iter().map(Tensor::bytes).sum();
        pass.used_bytes() + layers + inputs + ends.used_bytes(sizes) + scratch.used_bytes(sizes)
    }
}
