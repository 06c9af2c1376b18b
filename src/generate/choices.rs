//! The exact probability of each of a list of answers. The answers form a trie of tokens; only its inner nodes go
//! through the model, each in a fork of its parent's cache. One pass takes the nodes of one level, for many prompts.

use std::collections::BTreeMap;

use super::memory::cache_bytes;
use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::cache::{Cache, SequenceRow};
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;
use crate::ops::linear::stable_rows;
use crate::ops::log_sum::{self, Sums};

/// Tokens listed in [`Choices::top`]: the most that the `OpenAI` API gives.
const TOP: usize = 20;

/// How likely the model is to give each answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// For each string, the log of the probability that the answer starts with its tokens and does not continue to
    /// a longer string of the list; −∞ if that is impossible.
    pub log_masses: Vec<f64>,
    /// The likeliest first tokens with their log-probabilities, descending.
    pub top: Vec<(u32, f64)>,
}

/// A node of the trie: the strings that share its tokens.
#[derive(Debug, Default)]
struct Node {
    children: BTreeMap<u32, Node>,
    /// The string that ends here, as an index.
    ends: Option<usize>,
}

/// An inner node that goes through the model.
struct Visit<'a> {
    node: &'a Node,
    /// The log-probability of its tokens.
    log: f64,
    /// The prompt that it follows, as an index into the group.
    prompt: usize,
    /// Its sequence in the cache.
    sequence: usize,
}

/// Computes the probabilities of one list of answers, for prompt after prompt.
#[derive(Debug)]
pub struct Chooser<'a> {
    model: &'a Transformer,
    trie: Node,
    /// How many strings there are, and the tokens of the longest.
    strings: usize,
    longest: usize,
    /// Inner nodes of the trie, and of its widest level.
    nodes: usize,
    widest: usize,
    cache: Cache,
    scratch: Saved,
    logits: Tensor,
}

impl<'a> Chooser<'a> {
    /// For `strings`, as tokens.
    ///
    /// # Errors
    /// [`Error::Setting`] if a string is empty or two are equal.
    pub fn new(model: &'a Transformer, strings: &[Vec<u32>]) -> Result<Self> {
        let trie = trie(strings)?;
        let levels = inner_nodes(&trie);
        Ok(Self {
            model,
            trie,
            strings: strings.len(),
            longest: strings.iter().map(Vec::len).max().unwrap_or(0),
            nodes: levels.iter().sum(),
            widest: levels.into_iter().max().unwrap_or(1),
            cache: Cache::new(&model.spec, model.place, 0)?,
            scratch: Saved::for_inference(&model.spec, model.place),
            logits: model.logits_tensor(),
        })
    }

    /// The probability of each string as the answer to each of `prompts`: `on_done` receives them, with the prompt's index, in
    /// the order of the prompts. A prompt's result does not depend on the others.
    ///
    /// # Errors
    /// [`Error::Setting`] if a prompt is empty or the context too short; [`Error::Interrupted`]; what `on_done` returns.
    pub fn run(
        &mut self,
        prompts: &[Vec<u32>],
        on_done: &mut dyn FnMut(usize, Choices) -> Result<()>,
    ) -> Result<()> {
        let context = self.model.spec.context;
        let unfit = |prompt: &&Vec<u32>| prompt.is_empty() || prompt.len() + self.longest > context;
        if let Some(prompt) = prompts.iter().find(unfit) {
            let found = prompt.len();
            return Err(Error::Setting(format!(
                "a prompt of {found} tokens does not fit the context of {context}"
            )));
        }
        self.cache.clear();
        let most = self.cache.free_pages()
            + cache_bytes(self.model, None)? / Cache::page_bytes(&self.model.spec, self.model.place);
        let mut first = 0;
        while first < prompts.len() {
            let mut group: &[Vec<u32>] = &[];
            let mut pages = 0;
            for end in first + 1..=prompts.len() {
                let with_it = pages + self.pages(&prompts[end - 1]);
                let many = (end - first) * self.widest > stable_rows(self.model.place.device);
                if !group.is_empty() && (many || with_it > most) {
                    break;
                }
                (group, pages) = (&prompts[first..end], with_it);
            }
            for (i, choices) in self.group(group, pages)?.into_iter().enumerate() {
                on_done(first + i, choices)?;
            }
            first += group.len();
        }
        Ok(())
    }

    /// Pages that a prompt and its forks take; they share its full ones.
    fn pages(&self, prompt: &[u32]) -> usize {
        let own = Cache::pages_for(prompt.len());
        own + self.nodes * (Cache::pages_for(prompt.len() + self.longest) + 1 - own)
    }

    fn group(&mut self, prompts: &[Vec<u32>], pages: usize) -> Result<Vec<Choices>> {
        let Self { model, trie, cache, scratch, logits, .. } = self;
        cache.clear();
        if cache.free_pages() < pages {
            // The old cache is freed first, since both may not fit.
            *cache = Cache::new(&model.spec, model.place, 0)?;
            *cache = Cache::new(&model.spec, model.place, pages)?;
        }
        let (mut results, mut level, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for (prompt, ids) in prompts.iter().enumerate() {
            interrupt::check()?;
            let sequence = cache.add();
            let rows: Vec<SequenceRow> =
                (0..ids.len()).map(|position| SequenceRow { sequence, position }).collect();
            model.infer(scratch, cache, ids, &rows)?;
            model.logits(logits, scratch, &[ids.len() as u32 - 1])?;
            let first: Vec<f32> = logits.read()?;
            sums.extend(log_sum::forward(logits, &[children(trie)])?);
            let top = top(&first, sums[prompt].all());
            results.push(Choices { log_masses: vec![f64::NEG_INFINITY; self.strings], top });
            level.push(Visit { node: trie, log: 0.0, prompt, sequence });
        }
        loop {
            let mut next = Vec::new();
            for (visit, sums) in level.iter().zip(&sums) {
                expand(visit, sums, &mut results[visit.prompt].log_masses, &mut next);
            }
            if next.is_empty() {
                return Ok(results);
            }
            let tokens: Vec<u32> = next.iter().map(|(token, _)| *token).collect();
            level = Vec::with_capacity(next.len());
            for (_, visit) in next {
                level.push(Visit { sequence: cache.fork(visit.sequence)?, ..visit });
            }
            sums.clear();
            let together = stable_rows(model.place.device);
            for (tokens, visits) in tokens.chunks(together).zip(level.chunks(together)) {
                let place = |visit: &Visit| SequenceRow {
                    sequence: visit.sequence,
                    position: cache.length(visit.sequence),
                };
                let rows: Vec<SequenceRow> = visits.iter().map(place).collect();
                model.infer(scratch, cache, tokens, &rows)?;
                model.all_logits(logits, scratch)?;
                let lists: Vec<Vec<u32>> = visits.iter().map(|visit| children(visit.node)).collect();
                sums.extend(log_sum::forward(logits, &lists)?);
            }
        }
    }
}

/// The tokens that lead on from a node.
fn children(node: &Node) -> Vec<u32> {
    node.children.keys().copied().collect()
}

/// Records the probabilities that a node's logits determine: of its own string and of its children that are leaves. Lists its
/// inner children, which still refer to their parent's sequence.
fn expand<'a>(visit: &Visit<'a>, sums: &Sums, masses: &mut [f64], next: &mut Vec<(u32, Visit<'a>)>) {
    let Visit { node, log, .. } = *visit;
    let total = sums.all();
    if let Some(string) = node.ends {
        masses[string] = log + sums.others - total;
    }
    for ((&token, child), listed) in node.children.iter().zip(&sums.listed) {
        let log = log + listed - total;
        match child.ends {
            Some(string) if child.children.is_empty() => masses[string] = log,
            _ => next.push((token, Visit { node: child, log, ..*visit })),
        }
    }
}

fn trie(strings: &[Vec<u32>]) -> Result<Node> {
    let mut root = Node::default();
    for (index, string) in strings.iter().enumerate() {
        if string.is_empty() {
            return Err(Error::Setting(format!("answer {index} has no token")));
        }
        let end = string.iter().fold(&mut root, |node, &token| node.children.entry(token).or_default());
        if let Some(same) = end.ends.replace(index) {
            return Err(Error::Setting(format!("answers {same} and {index} have the same tokens")));
        }
    }
    Ok(root)
}

/// Number of nodes with children on each level, starting at the root.
fn inner_nodes(root: &Node) -> Vec<usize> {
    let mut levels = Vec::new();
    let mut level = vec![root];
    loop {
        level.retain(|node| !node.children.is_empty());
        if level.is_empty() {
            return levels;
        }
        levels.push(level.len());
        level = level.into_iter().flat_map(|node| node.children.values()).collect();
    }
}

/// The likeliest tokens with their log-probabilities, descending, of logits whose log-sum is `total`; ties go to the
/// smaller id.
fn top(logits: &[f32], total: f64) -> Vec<(u32, f64)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(TOP + 1);
    for (id, &x) in logits.iter().enumerate() {
        if best.len() == TOP && x <= best[TOP - 1].1 {
            continue;
        }
        let at = best.partition_point(|(_, other)| *other >= x);
        best.insert(at, (id as u32, x));
        best.truncate(TOP);
    }
    best.into_iter().map(|(id, x)| (id, f64::from(x) - total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_that_goes_on_shares_its_mass() {
        // Tokens 0 and 1; strings "0", "01": the string "0" gets the probability that token 1 does not follow.
        let trie = trie(&[vec![0], vec![0, 1]]).unwrap();
        assert_eq!(inner_nodes(&trie), [1, 1]);
        let (mut masses, mut next) = (vec![f64::NEG_INFINITY; 2], Vec::new());
        let sums = |logits: &[f32], node: &Node| log_sum::cpu::forward(logits, &[children(node)]).remove(0);
        let root = Visit { node: &trie, log: 0.0, prompt: 0, sequence: 0 };
        expand(&root, &sums(&[0.0, 0.0], &trie), &mut masses, &mut next);
        assert_eq!(next.len(), 1);
        let (token, visit) = next.remove(0);
        assert_eq!((token, visit.log), (0, 0.5_f64.ln()));
        expand(&visit, &sums(&[3.0_f32.ln(), 0.0], visit.node), &mut masses, &mut next);
        assert!(next.is_empty());
        assert!((masses[0].exp() - 0.375).abs() < 1e-6 && (masses[1].exp() - 0.125).abs() < 1e-6);
    }

    #[test]
    fn equal_and_empty_strings_are_refused() {
        assert!(trie(&[vec![1], vec![1]]).is_err());
        assert!(trie(&[vec![]]).is_err());
    }

    #[test]
    fn top_is_sorted_and_normalised() {
        let logits = [0.0, 2.0, 1.0, 2.0];
        let top = top(&logits, logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln());
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2, 0]);
        assert!((top.iter().map(|(_, log)| log.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
