//! The exact probability of each of a list of answers. The answers form a trie of tokens; only its inner nodes go
//! through the model, a level at a time, each a fork of its parent's cache.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::cache::{Cache, Row};
use crate::model::saved::Saved;
use crate::model::transformer::Transformer;
use crate::ops::linear::stable_rows;

/// Tokens listed in [`Choices::top`], as many as the `OpenAI` API gives at most.
const TOP: usize = 20;

/// What the model would answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// For each string, the log of the probability that the answer starts with its tokens and does not go on to a
    /// longer string of the list; −∞ if that cannot happen.
    pub log_masses: Vec<f64>,
    /// The likeliest first tokens with their log-probabilities, descending.
    pub top: Vec<(u32, f64)>,
}

/// A node of the trie: the strings that share its tokens.
#[derive(Default)]
struct Node {
    children: BTreeMap<u32, Node>,
    /// The string that ends here, as an index.
    ends: Option<usize>,
}

/// An inner node on its way through the model.
struct Visit<'a> {
    node: &'a Node,
    /// The log-probability of its tokens.
    log: f64,
    /// Its sequence in the cache.
    sequence: usize,
}

/// The probability of each of `strings` (as tokens) as the answer to `prompt`.
///
/// # Errors
/// [`Error::Setting`] if the prompt or a string is empty, two strings are equal, or the context is too short.
pub fn choices(model: &Transformer, prompt: &[u32], strings: &[Vec<u32>]) -> Result<Choices> {
    let trie = trie(strings)?;
    let longest = prompt.len() + strings.iter().map(Vec::len).max().unwrap_or(0);
    if prompt.is_empty() || longest > model.spec.context {
        let (found, limit) = (prompt.len(), model.spec.context);
        return Err(Error::Setting(format!(
            "a prompt of {found} tokens does not fit the context of {limit}"
        )));
    }
    let nodes = inner_nodes(&trie);
    let mut cache = Cache::new(model, Cache::pages_for(prompt.len()) + nodes * Cache::pages_for(longest))?;
    let (mut scratch, mut logits) = (Saved::for_inference(model), model.logits_tensor());
    let sequence = cache.add();
    let rows: Vec<Row> = (0..prompt.len()).map(|position| Row { sequence, position }).collect();
    model.infer(&mut scratch, &mut cache, prompt, &rows)?;
    model.logits(&mut logits, &mut scratch, &[prompt.len() as u32 - 1])?;
    let mut rows_of_level: Vec<f32> = logits.read()?;
    let mut result = Choices { log_masses: vec![f64::NEG_INFINITY; strings.len()], top: top(&rows_of_level) };
    let mut level = vec![Visit { node: &trie, log: 0.0, sequence }];
    loop {
        let mut next = Vec::new();
        for (visit, row) in level.iter().zip(rows_of_level.chunks_exact(model.spec.vocab)) {
            expand(visit, row, &mut result.log_masses, &mut next);
        }
        if next.is_empty() {
            return Ok(result);
        }
        let tokens: Vec<u32> = next.iter().map(|(token, _)| *token).collect();
        level = Vec::with_capacity(next.len());
        for (_, visit) in next {
            level.push(Visit { sequence: cache.fork(visit.sequence)?, ..visit });
        }
        rows_of_level.clear();
        let together = stable_rows(model.place.device);
        for (tokens, visits) in tokens.chunks(together).zip(level.chunks(together)) {
            let place =
                |visit: &Visit| Row { sequence: visit.sequence, position: cache.length(visit.sequence) };
            let rows: Vec<Row> = visits.iter().map(place).collect();
            model.infer(&mut scratch, &mut cache, tokens, &rows)?;
            model.logits(&mut logits, &mut scratch, &(0..rows.len() as u32).collect::<Vec<_>>())?;
            rows_of_level.extend(logits.read::<f32>()?);
        }
    }
}

/// Books what a node's logits (V) decide: its own string, its children that are leaves; and lists its inner children,
/// still in their parent's sequence.
fn expand<'a>(visit: &Visit<'a>, logits: &[f32], masses: &mut [f64], next: &mut Vec<(u32, Visit<'a>)>) {
    let Visit { node, log, sequence } = *visit;
    let total = log_sum(logits.iter().copied());
    if let Some(string) = node.ends {
        // Summed over the tokens that do not go on, rather than subtracted, so that nothing cancels.
        let others = logits.iter().enumerate().filter(|&(id, _)| !node.children.contains_key(&(id as u32)));
        masses[string] = log + log_sum(others.map(|(_, &x)| x)) - total;
    }
    for (&token, child) in &node.children {
        let log = log + f64::from(logits[token as usize]) - total;
        match child.ends {
            Some(string) if child.children.is_empty() => masses[string] = log,
            _ => next.push((token, Visit { node: child, log, sequence })),
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

/// Nodes with children, the root included.
fn inner_nodes(node: &Node) -> usize {
    usize::from(!node.children.is_empty()) + node.children.values().map(inner_nodes).sum::<usize>()
}

/// log Σ exp.
fn log_sum(values: impl Iterator<Item = f32> + Clone) -> f64 {
    let max = values.clone().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let max = f64::from(max);
    max + values.map(|x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// The likeliest tokens with their log-probabilities, descending; ties go to the smaller id.
fn top(logits: &[f32]) -> Vec<(u32, f64)> {
    let total = log_sum(logits.iter().copied());
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let descending = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    let count = TOP.min(ids.len());
    if count < ids.len() {
        ids.select_nth_unstable_by(count, descending);
    }
    ids.truncate(count);
    ids.sort_unstable_by(descending);
    ids.into_iter().map(|id| (id, f64::from(logits[id as usize]) - total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_that_goes_on_shares_its_mass() {
        // Tokens 0 and 1; strings "0", "01": the node "0" keeps what does not go on to token 1.
        let trie = trie(&[vec![0], vec![0, 1]]).unwrap();
        assert_eq!(inner_nodes(&trie), 2);
        let (mut masses, mut next) = (vec![f64::NEG_INFINITY; 2], Vec::new());
        expand(&Visit { node: &trie, log: 0.0, sequence: 0 }, &[0.0, 0.0], &mut masses, &mut next);
        assert_eq!(next.len(), 1);
        let (token, visit) = next.remove(0);
        assert_eq!((token, visit.log), (0, 0.5_f64.ln()));
        expand(&visit, &[3.0_f32.ln(), 0.0], &mut masses, &mut next);
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
        let top = top(&[0.0, 2.0, 1.0, 2.0]);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2, 0]);
        assert!((top.iter().map(|(_, log)| log.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
