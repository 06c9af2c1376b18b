//! Which examples an optimiser step uses, and how they share passes through the model. Documents in a pass see only
//! themselves (document masks, positions from 0), so packing changes speed and memory, not the numbers.

use std::ops::Range;

use super::example::Example;
use super::settings::{Normalisation, Settings};
use crate::device::philox::Key;
use crate::model::text::Text;
use crate::model::transformer::Batch;

/// The order of the examples over a whole run.
pub struct Order {
    /// Indices of the training examples, in the order of the data.
    train: Vec<usize>,
    /// Indices of the held-out examples, in the order of the data.
    pub held_out: Vec<usize>,
    seed: u64,
    shuffle: bool,
    batch_size: usize,
    accumulation: usize,
    /// Optimiser steps of the run.
    pub steps: usize,
}

impl Order {
    /// Splits `n` examples as `settings` say. A step never crosses the end of an epoch: the last step of an epoch uses
    /// the examples that are left, as the reference trainer does.
    pub fn new(n: usize, settings: &Settings) -> Self {
        // At least one example is kept for training.
        let aside = ((n as f64 * settings.held_out).round() as usize).min(n.saturating_sub(1));
        let mut permuted = Key::new(settings.seed, &["held out"]).permutation(n);
        let mut train = permuted.split_off(aside);
        train.sort_unstable();
        permuted.sort_unstable();
        let mut order = Self {
            train,
            held_out: permuted,
            seed: settings.seed,
            shuffle: settings.shuffle,
            batch_size: settings.batch_size,
            accumulation: settings.accumulation,
            steps: 0,
        };
        order.steps = settings.max_steps.unwrap_or(settings.epochs * order.steps_per_epoch());
        order
    }

    /// Number of training examples.
    pub fn train_len(&self) -> usize {
        self.train.len()
    }

    /// Optimiser steps of one pass over the training examples.
    pub fn steps_per_epoch(&self) -> usize {
        self.train.len().div_ceil(self.batch_size).div_ceil(self.accumulation)
    }

    /// The micro-batches of optimiser step `step` (from 0).
    pub fn step(&self, step: usize) -> Vec<Vec<usize>> {
        let (epoch, step) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let n = self.train.len();
        let permutation = if self.shuffle {
            Key::new(self.seed, &["epoch", &epoch.to_string()]).permutation(n)
        } else {
            (0..n).collect()
        };
        let size = self.batch_size * self.accumulation;
        let examples: Vec<usize> =
            permutation[step * size..n.min((step + 1) * size)].iter().map(|&i| self.train[i]).collect();
        examples.chunks(self.batch_size).map(<[usize]>::to_vec).collect()
    }
}

/// Several examples that go through the model together.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// The examples, as indices.
    pub examples: Vec<usize>,
    /// The factor on each token's loss.
    pub weight: f64,
}

/// Groups the micro-batches of a step into passes of at most `pack_tokens` tokens (an example longer than that goes
/// alone).
pub fn passes(examples: &[Example], step: &[Vec<usize>], settings: &Settings) -> Vec<Pass> {
    let targets =
        |indices: &[usize]| indices.iter().map(|&i| examples[i].text.targets()).sum::<usize>() as f64;
    match settings.normalisation {
        Normalisation::Tokens => {
            let all = step.concat();
            pack(examples, &all, 1.0 / targets(&all), settings.pack_tokens)
        }
        Normalisation::MicroBatches => step
            .iter()
            .flat_map(|batch| {
                let weight = 1.0 / (targets(batch) * step.len() as f64);
                pack(examples, batch, weight, settings.pack_tokens)
            })
            .collect(),
    }
}

/// Groups examples, in their order, into passes of at most `budget` tokens.
pub fn pack(examples: &[Example], indices: &[usize], weight: f64, budget: usize) -> Vec<Pass> {
    let mut passes: Vec<Pass> = Vec::new();
    let mut room = 0;
    for &index in indices {
        let tokens = examples[index].text.inputs();
        match passes.last_mut() {
            Some(pass) if tokens <= room => pass.examples.push(index),
            _ => {
                passes.push(Pass { examples: vec![index], weight });
                room = budget;
            }
        }
        room = room.saturating_sub(tokens);
    }
    passes
}

/// A pass as the model takes it.
pub struct Packed {
    /// All its examples, one after the other.
    pub batch: Batch,
    /// The rows of the hidden states that carry loss, ascending.
    pub rows: Vec<u32>,
    /// The token to be predicted at each of them.
    pub targets: Vec<u32>,
}

impl Packed {
    /// Concatenates the examples of `pass`. Tokens from an example's last target on are left out, since no prediction
    /// depends on them.
    pub fn new(examples: &[Example], pass: &Pass, dropout: Option<Key>) -> Self {
        let batch = Batch { tokens: Vec::new(), starts: vec![0], dropout };
        let mut packed = Self { batch, rows: Vec::new(), targets: Vec::new() };
        for &index in &pass.examples {
            let text = &examples[index].text;
            let Text { ids, answer } = text;
            let start = packed.batch.tokens.len();
            let inputs = text.inputs();
            packed.batch.tokens.extend_from_slice(&ids[..inputs]);
            for i in (1..=inputs).filter(|&i| answer[i]) {
                packed.rows.push((start + i - 1) as u32);
                packed.targets.push(ids[i]);
            }
            packed.batch.starts.push(packed.batch.tokens.len() as u32);
        }
        packed
    }

    /// The positions in [`rows`](Self::rows) that belong to the example number `example` of the pass.
    pub fn rows_of(&self, example: usize) -> Range<usize> {
        let before = |start: u32| self.rows.partition_point(|&row| row < start);
        before(self.batch.starts[example])..before(self.batch.starts[example + 1])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::train::dataset::Origin;

    /// Examples of the given lengths, with loss on every token but the first.
    fn examples(lengths: &[usize]) -> Vec<Example> {
        let example = |(line, &length): (usize, &usize)| Example {
            origin: Origin { path: Arc::new("data.jsonl".into()), line: line + 1 },
            text: Text {
                ids: (0..length as u32).map(|i| i + 10 * line as u32).collect(),
                answer: (0..length).map(|i| i > 0).collect(),
            },
        };
        lengths.iter().enumerate().map(example).collect()
    }

    fn settings(batch_size: usize, accumulation: usize) -> Settings {
        Settings { batch_size, accumulation, held_out: 0.0, ..Settings::default() }
    }

    #[test]
    fn the_study_takes_338_steps() {
        let order = Order::new(6000, &Settings::default());
        assert_eq!((order.train_len(), order.held_out.len(), order.steps), (5400, 600, 338));
        let seen: Vec<usize> = (0..338).flat_map(|step| order.step(step).concat()).collect();
        assert_eq!(seen.len(), 5400);
        assert_eq!(order.step(337).len(), 4);
        let mut all = [seen, order.held_out.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..6000));
    }

    #[test]
    fn epochs_differ_and_steps_do_not_cross_them() {
        let order = Order::new(9, &Settings { epochs: 2, ..settings(2, 1) });
        assert_eq!(order.steps, 10);
        assert_eq!(order.step(4)[0].len(), 1);
        let epoch = |e: usize| (0..5).flat_map(|step| order.step(5 * e + step).concat()).collect::<Vec<_>>();
        assert_ne!(epoch(0), epoch(1));
        let plain = Order::new(5, &Settings { shuffle: false, max_steps: Some(4), ..settings(2, 1) });
        assert_eq!((plain.step(1), plain.step(3), plain.steps), (vec![vec![2, 3]], vec![vec![0, 1]], 4));
    }

    #[test]
    fn passes_keep_to_the_budget_and_the_weight() {
        let examples = examples(&[5, 5, 9, 3]);
        let step = [vec![0, 1], vec![2, 3]];
        let tokens = passes(&examples, &step, &Settings { pack_tokens: 9, ..settings(2, 2) });
        let groups: Vec<_> = tokens.iter().map(|pass| pass.examples.clone()).collect();
        assert_eq!(groups, [vec![0, 1], vec![2], vec![3]]);
        assert!(tokens.iter().all(|pass| pass.weight == 1.0 / 18.0));
        let normalisation = Normalisation::MicroBatches;
        let means = passes(&examples, &step, &Settings { normalisation, ..settings(2, 2) });
        assert_eq!(means.iter().map(|pass| pass.weight).collect::<Vec<_>>(), [1.0 / 16.0, 1.0 / 20.0]);
    }

    #[test]
    fn a_packed_pass_predicts_the_next_token_of_its_own_example() {
        let mut examples = examples(&[3, 4]);
        examples[1].text.answer = vec![false, false, true, false];
        let pass = Pass { examples: vec![0, 1], weight: 1.0 };
        let packed = Packed::new(&examples, &pass, None);
        assert_eq!(packed.batch.tokens, [0, 1, 10, 11]);
        assert_eq!(packed.batch.starts, [0, 2, 4]);
        assert_eq!(packed.rows, [0, 1, 3]);
        assert_eq!(packed.targets, [1, 2, 12]);
        assert_eq!((packed.rows_of(0), packed.rows_of(1)), (0..2, 2..3));
    }
}
