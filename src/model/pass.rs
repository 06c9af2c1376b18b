//! [`PassInputs`]: the inputs of a pass: its tokens, their positions, and what each of them may attend to.

use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::model::place::Place;
use crate::model::spec::Spec;
use crate::ops::attention::{Contexts, Documents};
use crate::ops::rope::{self, Rope};

/// The inputs of a pass over N rows.
#[derive(Debug)]
pub(super) struct PassInputs {
    place: Place,
    /// Token ids (N).
    pub(super) tokens: Tensor,
    /// The rows as packed documents, in training and for a whole prompt.
    pub(super) documents: Option<Documents>,
    /// The rows as places in cached sequences; their positions are set in every pass.
    pub(super) contexts: Contexts,
    /// cos and sin (N, D) of each kind of rotation.
    angles: Vec<(Rope, Tensor)>,
}

impl PassInputs {
    /// No rows yet.
    pub(super) fn new(place: Place) -> Self {
        let contexts = Contexts::empty(place.device);
        Self { place, tokens: place.index(), documents: None, contexts, angles: Vec::new() }
    }

    /// N.
    pub(super) fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Sets the tokens of a pass and the angles of their positions. The caller then sets the documents or
    /// the places in the cache.
    ///
    /// # Errors
    /// [`Error::Run`] for a token id outside the vocabulary.
    pub(super) fn start(&mut self, spec: &Spec, tokens: &[u32], positions: &[u32]) -> Result<()> {
        if let Some(token) = tokens.iter().find(|token| **token as usize >= spec.vocab) {
            let vocab = spec.vocab;
            return Err(Error::Run(format!(
                "token id {token} is outside the model's vocabulary of {vocab}: the tokenizer belongs to another model"
            )));
        }
        self.documents = None;
        self.tokens.set(&[tokens.len()], tokens)?;
        self.contexts.positions.set(&[positions.len()], positions)?;
        for rope in &spec.ropes {
            if self.angles.iter().all(|(known, _)| known != rope) {
                self.angles.push((*rope, self.place.float()));
            }
        }
        for (rope, angles) in &mut self.angles {
            rope::angles(angles, &self.contexts.positions, *rope, spec.head_dim)?;
        }
        Ok(())
    }

    /// The documents, which a forward pass over packed documents has set.
    pub(super) fn documents(&self) -> &Documents {
        self.documents.as_ref().expect("the documents of the forward pass")
    }

    /// cos and sin of one kind of rotation.
    pub(super) fn angles(&self, rope: Rope) -> &Tensor {
        &self.angles.iter().find(|(known, _)| *known == rope).expect("angles of every kind of rotation").1
    }

    /// Bytes for a pass over `n` rows.
    pub(super) fn bytes(spec: &Spec, n: usize) -> usize {
        let kinds = &spec.ropes;
        let distinct = kinds.iter().enumerate().filter(|(i, kind)| !kinds[..*i].contains(kind)).count();
        // Tokens, positions, angles.
        n * 4 * (2 + distinct * spec.head_dim)
    }

    /// Bytes in use.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        let angles = self.angles.iter().map(|(_, angles)| angles);
        angles.chain([&self.tokens, &self.contexts.positions]).map(Tensor::bytes).sum()
    }
}
