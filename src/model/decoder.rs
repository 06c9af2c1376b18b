//! [`Decoder`]: a token of each of many sequences in, the next one of each out.
//!
//! On a GPU the hundreds of launches of a step are recorded as a graph at the second step of their size and repeated from
//! then on. So that sizes recur, rows and tables of pages are filled up; a row's result depends on neither.

use std::collections::HashMap;

use crate::device::graph::Graph;
use crate::device::philox::Key;
use crate::device::{Device, Gpu, Tensor};
use crate::error::Result;
use crate::model::cache::{Cache, Row};
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;
use crate::ops::linear::stable_rows;
use crate::ops::mask::{FREE, Masks};
use crate::ops::sample::{self, Batch, Draw, Sampling};

/// Rows are filled up to a multiple of this many.
const ROWS: usize = 8;
/// Tables of pages are filled up to a multiple of this many.
const PAGES: usize = 64;

/// Decodes with one model and one way of sampling.
#[derive(Debug)]
pub struct Decoder<'a> {
    /// The sequences. What is recorded works on this cache.
    cache: Cache,
    model: &'a Transformer,
    sampling: Sampling,
    saved: Saved,
    logits: Tensor,
    /// On a GPU.
    recorder: Option<Recorder>,
}

#[derive(Debug)]
struct Recorder {
    gpu: Gpu,
    batch: Batch,
    /// By rows and pages a row: `None` for a size that has run once.
    graphs: HashMap<[usize; 2], Option<Graph>>,
}

impl<'a> Decoder<'a> {
    /// Of the sequences of `cache`.
    pub fn new(model: &'a Transformer, cache: Cache, sampling: Sampling) -> Self {
        let recorder = match model.place.device {
            Device::Cuda(gpu) => Some(Recorder { gpu, batch: Batch::new(gpu), graphs: HashMap::new() }),
            Device::Cpu => None,
        };
        let (saved, logits) = (Saved::for_inference(model), model.logits_tensor());
        Self { cache, model, sampling, saved, logits, recorder }
    }

    /// The sequences.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The sequences, to add, fork and remove.
    pub fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Computes the next positions of up to [`stable_rows`] different sequences: `tokens` go in, and are overwritten with
    /// what is drawn after them. A row's token does not depend on the others. With masks, and the
    /// number of each row's, only what these let come is drawn; one decoder has them always or never.
    ///
    /// # Errors
    /// [`Error::Run`](crate::Error::Run) for a token id outside the vocabulary, a full cache or logits that are not finite.
    pub fn step(
        &mut self,
        tokens: &mut [u32],
        rows: &[Row],
        draws: &[Draw],
        mut masks: Option<(&mut Masks, &[u32])>,
    ) -> Result<()> {
        assert!(rows.len() <= stable_rows(self.model.place.device), "{} rows at once", rows.len());
        assert_eq!([tokens.len(), draws.len()], [rows.len(); 2], "tokens and draws for the rows");
        let Self { cache, model, sampling, saved, logits, recorder } = self;
        let Some(recorder) = recorder else {
            model.infer(saved, cache, tokens, rows)?;
            model.all_logits(logits, saved)?;
            if let Some((masks, masked)) = masks {
                masks.set(masked)?;
                masks.apply(logits)?;
            }
            return sample::forward(tokens, logits, *sampling, draws);
        };
        let Recorder { gpu, batch, graphs } = recorder;
        let allocations = gpu.memory().allocations;
        let n = filled(rows.len());
        let pages = Cache::most_pages(rows).next_multiple_of(PAGES);
        // Rows that fill up stand at different positions of the cache's last page.
        let more = n - rows.len();
        let positions: Vec<u32> = rows.iter().map(|row| row.position as u32).chain(0..more as u32).collect();
        let all: Vec<u32> = tokens.iter().copied().chain(std::iter::repeat_n(0, more)).collect();
        saved.start(&model.spec, &all, &positions)?;
        cache.extend(rows)?;
        saved.locate(cache, rows, pages)?;
        let nothing = Draw { key: Key([0, 0]), position: 0, forbidden: &[] };
        let draws: Vec<Draw> = draws.iter().copied().chain(std::iter::repeat_n(nothing, more)).collect();
        batch.set(&draws)?;
        if let Some((masks, masked)) = &mut masks {
            let all: Vec<u32> = masked.iter().copied().chain(std::iter::repeat_n(FREE, more)).collect();
            masks.set(&all)?;
        }
        let mut run = |batch: &mut Batch| {
            model.attend(saved, cache, None)?;
            model.all_logits(logits, saved)?;
            if let Some((masks, _)) = &masks {
                masks.apply(logits)?;
            }
            batch.draw(logits, *sampling)
        };
        let graph = match graphs.get(&[n, pages]) {
            // Where memory has moved, recorded launches would work on the old.
            _ if gpu.memory().allocations != allocations || !gpu.records() => None,
            Some(Some(graph)) => Some(graph),
            Some(None) => {
                let graph = Graph::record(*gpu, || run(batch))?;
                graphs.insert([n, pages], Some(graph));
                graphs[&[n, pages]].as_ref()
            }
            None => None,
        };
        if let Some(graph) = graph {
            graph.launch()?;
        } else {
            run(batch)?;
            if gpu.memory().allocations != allocations {
                graphs.clear();
            }
            graphs.insert([n, pages], None);
        }
        batch.read(tokens)
    }
}

/// Rows of a step for `n` sequences: few alone as they are, since a step of few rows takes its time from the weights.
fn filled(n: usize) -> usize {
    if n < ROWS { n.next_power_of_two() } else { n.next_multiple_of(ROWS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_up_to_few_sizes() {
        assert_eq!([1, 2, 3, 5, 8, 9, 100, 256].map(filled), [1, 2, 4, 8, 8, 16, 104, 256]);
    }
}
