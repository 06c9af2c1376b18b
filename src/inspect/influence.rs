//! Which training examples change the loss of some answers most: dot products of gradients on adapter parameters (TracIn with
//! one checkpoint: Pruthi et al., arXiv 2002.08484).
//!
//! ```text
//! g(z)          ∂L(z)/∂θ         θ: every A and B; L as in gradient.rs
//! g             1/K · Σ_k g(z_k)   the K answers in question
//! dot_i         ⟨g(x_i), g⟩
//! ```
//!
//! A step of plain gradient descent with learning rate η on example i lowers the answers' mean loss by η·dot_i, to first order.
//! The cosine removes the length of the example's gradient, which is large for badly predicted examples.

use rayon::prelude::*;
use serde::Serialize;

use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::inspect::gradient::{Passes, clear, longest};
use crate::inspect::sums::square_sum;
use crate::model::text::Text;
use crate::model::transformer::Transformer;

/// Numbers of one partial sum of a dot product.
const PART: usize = 1 << 14;

/// One training example.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Influence {
    /// How much a step on it lowers the answers' loss, per learning rate.
    pub dot: f64,
    /// The cosine of the angle between its gradient and theirs; 0 if one of them is 0.
    pub cosine: f64,
    /// L(x_i), in nats a token.
    pub loss: f64,
    /// ‖g(x_i)‖.
    pub norm: f64,
    /// Its tokens that carry loss.
    pub targets: usize,
}

/// The influence of training examples on answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Influences {
    /// The mean loss of the answers, in nats a token.
    pub loss: f64,
    /// ‖g‖.
    pub norm: f64,
    /// By example, in their order.
    pub examples: Vec<Influence>,
}

/// The influence of every example on the mean loss of `answers`, on the parameters that `model` trains; `done` is called after
/// each text. All gradients are zero afterwards.
///
/// # Errors
/// [`Error::Setting`] for no answers, nothing that is trained, a text that is too long or carries no loss, or a steered model;
/// [`Error::Run`] for a token outside the vocabulary or a loss that is not finite.
pub fn influence(
    model: &mut Transformer,
    examples: &[Text],
    answers: &[Text],
    done: &mut dyn FnMut(),
) -> Result<Influences> {
    if answers.is_empty() || model.trainable().is_empty() {
        let what = if answers.is_empty() { "no answers to be explained" } else { "nothing is trained" };
        return Err(Error::Setting(format!("influence: {what}")));
    }
    let n = longest(model, "answer", answers)?.max(longest(model, "example", examples)?);
    let mut passes = Passes::new(model, n)?;
    let weight = 1.0 / answers.len() as f64;
    let mut loss = 0.0;
    clear(model)?;
    for answer in answers {
        loss += weight * passes.add(model, answer, weight, &mut ())?;
        done();
    }
    let whole = taken(model)?;
    let norm = whole.iter().map(|x| square_sum(x)).sum::<f64>().sqrt();
    let mut all = Vec::with_capacity(examples.len());
    for example in examples {
        let loss = passes.add(model, example, 1.0, &mut ())?;
        let own = taken(model)?;
        let dot: f64 = own.iter().zip(&whole).map(|(x, y)| dot(x, y)).sum();
        let length = own.iter().map(|x| square_sum(x)).sum::<f64>().sqrt();
        let lengths = length * norm;
        all.push(Influence {
            dot,
            cosine: if lengths == 0.0 { 0.0 } else { dot / lengths },
            loss,
            norm: length,
            targets: example.targets(),
        });
        done();
    }
    Ok(Influences { loss, norm, examples: all })
}

/// Every trained parameter's gradient, which is zero afterwards.
fn taken(model: &mut Transformer) -> Result<Vec<Vec<f32>>> {
    let gradients = model.trainable().into_iter().filter_map(|(_, p)| p.gradient.as_ref());
    let taken = gradients.map(Tensor::numbers).collect::<Result<_>>()?;
    clear(model)?;
    Ok(taken)
}

/// In parts whose order does not depend on the number of threads.
fn dot(x: &[f32], y: &[f32]) -> f64 {
    let part = |(x, y): (&[f32], &[f32])| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let parts: Vec<f64> = x.par_chunks(PART).zip(y.par_chunks(PART)).map(part).collect();
    parts.iter().sum()
}
