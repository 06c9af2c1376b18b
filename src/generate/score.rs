//! How well a model predicts a text.

use crate::error::Result;
use crate::model::cache::{Cache, Row};
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;

/// Tokens that go through the model together.
const CHUNK: usize = 2048;

/// The negative log-likelihood of every token of `ids` but the first, in nats, each given all the tokens before it.
/// A text longer than the model's context is scored in windows of that length that do not overlap; each starts
/// afresh with `bos`, if there is one, and predicts every token after its first.
///
/// # Errors
/// Whatever the model returns.
pub fn score(model: &Transformer, ids: &[u32], bos: Option<u32>) -> Result<Vec<f32>> {
    let (first, rest) = ids.split_at(ids.len().min(model.spec.context));
    let mut nll = score_window(model, first)?;
    for window in rest.chunks(model.spec.context - bos.iter().len()) {
        let window: Vec<u32> = bos.into_iter().chain(window.iter().copied()).collect();
        nll.extend(score_window(model, &window)?);
    }
    Ok(nll)
}

fn score_window(model: &Transformer, ids: &[u32]) -> Result<Vec<f32>> {
    let mut cache = Cache::new(&model.spec, Cache::pages_for(ids.len()));
    let mut scratch = Saved::for_inference(&model.spec);
    let sequence = cache.add();
    let Some((_, targets)) = ids.split_first() else { return Ok(Vec::new()) };
    let mut nll = Vec::with_capacity(targets.len());
    for (inputs, targets) in ids.chunks(CHUNK).zip(targets.chunks(CHUNK)) {
        let inputs = &inputs[..targets.len()];
        let start = cache.length(sequence);
        let rows: Vec<Row> = (0..inputs.len()).map(|i| Row { sequence, position: start + i }).collect();
        model.infer(&mut scratch, &mut cache, inputs, &rows)?;
        let rows: Vec<u32> = (0..inputs.len() as u32).collect();
        nll.extend(model.loss(&mut scratch, &rows, targets)?);
    }
    Ok(nll)
}
