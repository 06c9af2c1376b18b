//! The residual stream while a model reads texts: at every token, and its mean over the tokens of an answer.

use std::ops::Range;

use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::model::probe::{Probe, Site};
use crate::model::saved::Saved;
use crate::model::text::Text;
use crate::model::transformer::{Batch, Transformer};

/// Most tokens of one pass, unless a single text has more.
pub(super) const PASS: usize = 4096;

/// Means of the residual stream over the tokens of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// By depth 0 to L and example: the mean (C).
    pub means: Vec<Vec<Vec<f32>>>,
    /// By depth: the mean length of the stream at one token of an answer.
    pub lengths: Vec<f64>,
}

/// Reads texts, several a pass, and calls `visit` for each text and depth with the number of the text, the depth 0 to L, and the
/// stream (T, C). Depths are as in [`steering`](crate::model::steering); a steered model's stream is the steered one.
///
/// # Errors
/// [`Error::Setting`] for a text that is empty or longer than the model's context; whatever the model returns.
pub fn streams(
    model: &Transformer,
    texts: &[Text],
    visit: &mut (dyn FnMut(usize, usize, &[f32]) + Send),
) -> Result<()> {
    let context = model.spec.context;
    if let Some((i, text)) = texts.iter().enumerate().find(|(_, t)| !(1..=context).contains(&t.ids.len())) {
        let found = text.ids.len();
        return Err(Error::Setting(format!(
            "text {} has {found} tokens; the model reads 1 to {context}",
            i + 1
        )));
    }
    let mut saved = Saved::for_inference(&model.spec, model.place);
    let mut first = 0;
    while first < texts.len() {
        let mut batch = Batch { starts: vec![0], ..Batch::default() };
        let mut next = first;
        while next < texts.len() && (next == first || batch.tokens.len() + texts[next].ids.len() <= PASS) {
            batch.tokens.extend(&texts[next].ids);
            batch.starts.push(batch.tokens.len() as u32);
            next += 1;
        }
        let rows = batch.starts.windows(2).map(|w| w[0] as usize..w[1] as usize).collect();
        model.forward(&mut saved, &batch, &mut Watch { first, rows, visit })?;
        first = next;
    }
    Ok(())
}

/// Passes the stream of a pass on, text by text.
struct Watch<'a> {
    /// The number of the pass's first text.
    first: usize,
    /// The rows of each text.
    rows: Vec<Range<usize>>,
    visit: &'a mut (dyn FnMut(usize, usize, &[f32]) + Send),
}

impl Probe for Watch<'_> {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        let Some(depth) = site.depth(layer) else { return Ok(false) };
        let [_, c] = x.dims()?;
        let x = x.numbers()?;
        for (i, rows) in self.rows.iter().enumerate() {
            (self.visit)(self.first + i, depth, &x[rows.start * c..rows.end * c]);
        }
        Ok(false)
    }
}

/// The mean of the stream over the tokens of each answer, at every depth; `done` is called after each text.
///
/// # Errors
/// Those of [`streams`]; [`Error::Setting`] for an answer without tokens; [`Error::Run`] if the stream is not finite.
pub fn features(model: &Transformer, texts: &[Text], done: &mut (dyn FnMut() + Send)) -> Result<Features> {
    if let Some(i) = texts.iter().position(|text| !text.answer.contains(&true)) {
        return Err(Error::Setting(format!("text {}: the answer has no tokens", i + 1)));
    }
    let (depths, c) = (model.spec.layers + 1, model.spec.channels);
    let mut means = vec![vec![Vec::new(); texts.len()]; depths];
    let mut lengths = vec![0.0; depths];
    streams(model, texts, &mut |text, depth, x| {
        let mut sum = vec![0.0; c];
        for (row, _) in x.chunks_exact(c).zip(&texts[text].answer).filter(|(_, answer)| **answer) {
            let mut square = 0.0;
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += f64::from(*x);
                square += f64::from(*x).powi(2);
            }
            lengths[depth] += square.sqrt();
        }
        let n = texts[text].answer.iter().filter(|answer| **answer).count() as f64;
        means[depth][text] = sum.iter().map(|sum| (sum / n) as f32).collect();
        if depth + 1 == depths {
            done();
        }
    })?;
    let tokens = texts.iter().flat_map(|text| &text.answer).filter(|answer| **answer).count() as f64;
    for length in &mut lengths {
        *length /= tokens;
    }
    if lengths.iter().all(|length| length.is_finite()) {
        Ok(Features { means, lengths })
    } else {
        Err(Error::Run("the model's residual stream is not finite".into()))
    }
}
