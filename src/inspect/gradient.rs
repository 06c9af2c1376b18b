//! The gradient of a text's loss: at every site of the pass, and of every trained parameter.
//!
//! ```text
//! L             1/M · Σ_m −ln p(y_m)                    the M tokens of the answer
//! ‖∂L/∂x‖       (Σ_nc (∂L/∂x_nc)²)^½                    of an activation, over all positions and channels
//! ‖∂L/∂x_n‖     (Σ_c (∂L/∂x_nc)²)^½                     of the residual stream at one token
//! ```
//!
//! To first order, a change of length ε there changes L by at most ε times that.

use serde::Serialize;

use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::inspect::sums::square_sum;
use crate::model::footprint::RESERVE;
use crate::model::probe::{Probe, Site};
use crate::model::saved::Saved;
use crate::model::text::Text;
use crate::model::transformer::{Batch, Transformer};

/// The gradient at a site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteGradient {
    /// The layer; L for sites after the last.
    pub layer: usize,
    /// The site.
    pub site: &'static str,
    /// ‖∂L/∂x‖.
    pub norm: f64,
}

/// A parameter and its gradient.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterGradient {
    /// As in the checkpoint; of an adapter, the layer's stacked A or B.
    pub name: String,
    /// ‖∂L/∂W‖.
    pub norm: f64,
    /// ‖W‖.
    pub weight_norm: f64,
}

/// The gradients of one text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gradients {
    /// L, in nats.
    pub loss: f64,
    /// M.
    pub targets: usize,
    /// The text (N).
    pub tokens: Vec<u32>,
    /// Of each token, whether it is one of the M (N).
    pub answer: Vec<bool>,
    /// ‖∂L/∂x_n‖ by depth 0 to L, and token.
    pub streams: Vec<Vec<f64>>,
    /// Every site, in the order of the forward pass.
    pub sites: Vec<SiteGradient>,
    /// Of the trained parameters.
    pub parameters: Vec<ParameterGradient>,
}

/// The longest of `texts`, in tokens.
///
/// # Errors
/// [`Error::Setting`] naming the text (`what`, and its number) that is longer than the model's context or has no answer to
/// predict.
pub(super) fn longest(model: &Transformer, what: &str, texts: &[Text]) -> Result<usize> {
    let context = model.spec.context;
    for (i, text) in texts.iter().enumerate() {
        let refuse = |why: String| Err(Error::Setting(format!("{what} {}: {why}", i + 1)));
        if text.ids.len() > context {
            return refuse(format!("{} tokens; the model reads {context}", text.ids.len()));
        }
        if text.targets() == 0 {
            return refuse("no token of an answer follows another token".into());
        }
    }
    Ok(texts.iter().map(|text| text.ids.len()).max().unwrap_or(0))
}

/// Runs texts forward and back, one at a time.
pub(super) struct Passes {
    saved: Saved,
}

impl Passes {
    /// For texts of at most `n` tokens: with every layer's activations kept if they fit on the card, else recomputed.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub(super) fn new(model: &Transformer, n: usize) -> Result<Self> {
        let keep = match model.place.device {
            Device::Cpu => true,
            Device::Cuda(gpu) => model.training_bytes(n, false) + RESERVE < gpu.free_memory()?.0,
        };
        Ok(Self {
            saved: if keep {
                Saved::for_training(&model.spec, model.place)
            } else {
                Saved::for_recomputing(&model.spec, model.place)
            },
        })
    }

    /// Adds `weight` times the gradient of the text's L to that of every trained parameter; returns L.
    ///
    /// # Errors
    /// [`Error::Run`] for a token outside the vocabulary or a loss that is not finite; [`Error::Setting`] for a steered model.
    pub(super) fn add(
        &mut self,
        model: &mut Transformer,
        text: &Text,
        weight: f64,
        probe: &mut dyn Probe,
    ) -> Result<f64> {
        let targets: Vec<usize> = (1..text.ids.len()).filter(|i| text.answer[*i]).collect();
        let rows: Vec<u32> = targets.iter().map(|i| *i as u32 - 1).collect();
        let ids: Vec<u32> = targets.iter().map(|i| text.ids[*i]).collect();
        let tokens = text.ids.clone();
        let batch = Batch { starts: vec![0, tokens.len() as u32], tokens, dropout: None };
        model.forward(&mut self.saved, &batch, &mut ())?;
        let m = targets.len() as f64;
        let nll = model.loss_gradient(&mut self.saved, &rows, &ids, (weight / m) as f32)?;
        model.backward(&mut self.saved, &batch, probe)?;
        let loss = nll.iter().map(|x| f64::from(*x)).sum::<f64>() / m;
        if loss.is_finite() { Ok(loss) } else { Err(Error::Run(format!("the loss of a text is {loss}"))) }
    }
}

/// Sets every trained parameter's gradient to zero.
pub(super) fn clear(model: &mut Transformer) -> Result<()> {
    model.trainable_mut().into_iter().filter_map(|(_, p)| p.gradient.as_mut()).try_for_each(Tensor::clear)
}

/// The gradients of `text`'s loss with respect to activations and to the trained parameters: those of the adapters, or every
/// weight. The model's own gradients are zero afterwards.
///
/// # Errors
/// [`Error::Setting`] for a text that is too long or has no answer, or for a steered model; [`Error::Run`] for a token outside
/// the vocabulary or a loss that is not finite.
pub fn gradients(model: &mut Transformer, text: &Text) -> Result<Gradients> {
    let mut passes = Passes::new(model, longest(model, "text", std::slice::from_ref(text))?)?;
    let mut norms = GradientNorms { sites: Vec::new(), streams: vec![Vec::new(); model.spec.layers + 1] };
    clear(model)?;
    let loss = passes.add(model, text, 1.0, &mut norms)?;
    let mut parameters = Vec::new();
    for (name, parameter) in model.trainable() {
        let gradient = parameter.gradient.as_ref().map_or(Ok(Vec::new()), Tensor::numbers)?;
        let [norm, weight_norm] = [gradient, parameter.full().numbers()?].map(|x| square_sum(&x).sqrt());
        parameters.push(ParameterGradient { name, norm, weight_norm });
    }
    clear(model)?;
    norms.sites.reverse();
    Ok(Gradients {
        loss,
        targets: text.targets(),
        tokens: text.ids.clone(),
        answer: text.answer.iter().enumerate().map(|(i, answer)| i > 0 && *answer).collect(),
        streams: norms.streams,
        sites: norms.sites,
        parameters,
    })
}

/// Records the lengths of gradients.
struct GradientNorms {
    /// In the order of the backward pass.
    sites: Vec<SiteGradient>,
    /// By depth and token.
    streams: Vec<Vec<f64>>,
}

impl Probe for GradientNorms {
    fn at(&mut self, _: usize, _: Site, _: &mut Tensor) -> Result<bool> {
        Ok(false)
    }

    fn gradient(&mut self, layer: usize, site: Site, dx: &Tensor) -> Result<()> {
        let [_, width] = dx.dims()?;
        let squares: Vec<f64> = dx.numbers()?.chunks(width).map(square_sum).collect();
        self.sites.push(SiteGradient { layer, site: site.name(), norm: squares.iter().sum::<f64>().sqrt() });
        if let Some(depth) = site.depth(layer) {
            self.streams[depth] = squares.into_iter().map(f64::sqrt).collect();
        }
        Ok(())
    }
}
