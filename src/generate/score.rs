//! How well a model predicts a text.

use crate::device::{DType, Tensor};
use crate::error::{Error, Result};
use crate::model::cache::{Cache, SequenceRow};
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;

/// Tokens that go through the model together.
const CHUNK: usize = 2048;

/// The negative log-likelihood of every token of `ids` but the first, in nats, each given all the tokens before it.
/// A text longer than the model's context is scored in windows of that length that do not overlap; each starts
/// with `bos`, if there is one, and predicts every token after its first.
///
/// # Errors
/// Those of the model.
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
    let Some((_, targets)) = ids.split_first() else { return Ok(Vec::new()) };
    let mut nll = Vec::with_capacity(targets.len());
    pass(model, &ids[..targets.len()], |scratch, start, rows| {
        nll.extend(model.loss(scratch, rows, &targets[start..start + rows.len()])?);
        Ok(())
    })?;
    Ok(nll)
}

/// The logits (T, V) after every token of `ids`, each given it and all the tokens before it.
///
/// # Errors
/// [`Error::Setting`] if there are no tokens or more than the model's context; whatever the model returns.
pub fn logits(model: &Transformer, ids: &[u32]) -> Result<Tensor> {
    if ids.is_empty() || ids.len() > model.spec.context {
        let (found, limit) = (ids.len(), model.spec.context);
        return Err(Error::Setting(format!(
            "logits are given for 1 to {limit} tokens, the model's context; these are {found}"
        )));
    }
    let vocab = model.spec.vocab;
    let mut all = Tensor::zeros(DType::F32, &[ids.len(), vocab]);
    let mut chunk = model.logits_tensor();
    pass(model, ids, |scratch, start, rows| {
        model.logits(&mut chunk, scratch, rows)?;
        all.write(start * vocab, &chunk.read::<f32>()?)
    })?;
    Ok(all)
}

/// Runs `ids` through the model, [`CHUNK`] at a time. After each chunk it calls `after` with the scratch that holds the pass,
/// where in `ids` the chunk starts, and the indices of its rows.
fn pass(
    model: &Transformer,
    ids: &[u32],
    mut after: impl FnMut(&mut Saved, usize, &[u32]) -> Result<()>,
) -> Result<()> {
    let mut cache = Cache::new(&model.spec, model.place, Cache::pages_for(ids.len()))?;
    let mut scratch = Saved::for_inference(&model.spec, model.place);
    let sequence = cache.add();
    for chunk in ids.chunks(CHUNK) {
        let start = cache.length(sequence);
        let rows: Vec<SequenceRow> =
            (0..chunk.len()).map(|i| SequenceRow { sequence, position: start + i }).collect();
        model.infer(&mut scratch, &mut cache, chunk, &rows)?;
        let rows: Vec<u32> = (0..chunk.len() as u32).collect();
        after(&mut scratch, start, &rows)?;
    }
    Ok(())
}
