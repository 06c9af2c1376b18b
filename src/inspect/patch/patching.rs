//! Patching every place of a run in turn, and the maps of its effects.

use std::ops::Range;

use serde::Serialize;

use super::metric::Metric;
use super::run::{Keep, Replacement, Runs};
use crate::error::{Error, Result};
use crate::model::probe::Site;
use crate::model::transformer::Transformer;

/// What a column of a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Columns {
    /// A position of the prompts, patched alone.
    Positions,
    /// A query head, patched at all positions that have a partner.
    Heads,
}

/// The effects at one site, by layer and column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Map {
    /// The site.
    pub site: &'static str,
    /// What its columns are.
    pub columns: Columns,
    /// Effects (layers, columns).
    pub effects: Vec<Vec<f64>>,
    /// Effects of all columns patched together (layers).
    pub together: Vec<f64>,
}

/// The result of patching.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Patched {
    /// The metric.
    pub metric: Metric,
    /// Its value on the source and on the target.
    pub source: f64,
    /// As above.
    pub target: f64,
    /// The tokens that were run: the prompt, and all tokens of an answer but the last.
    pub source_tokens: Vec<u32>,
    /// As above.
    pub target_tokens: Vec<u32>,
    /// The columns of [`Columns::Positions`]: a position of the source and its partner in the target.
    pub pairs: Vec<[usize; 2]>,
    /// One map a site.
    pub maps: Vec<Map>,
}

/// Positions of `source` and their partners in `target`: the common beginning, the common end, and, if both are of the same
/// length, everything between.
pub fn align(source: &[u32], target: &[u32]) -> Vec<[usize; 2]> {
    let (n, m) = (source.len(), target.len());
    if n == m {
        return (0..n).map(|i| [i, i]).collect();
    }
    let alike = |pairs: &mut dyn Iterator<Item = (&u32, &u32)>| pairs.take_while(|(a, b)| a == b).count();
    let begin = alike(&mut source.iter().zip(target));
    let end = alike(&mut source.iter().rev().zip(target.iter().rev())).min(n.min(m) - begin);
    (0..begin).map(|i| [i, i]).chain((0..end).rev().map(|i| [n - 1 - i, m - 1 - i])).collect()
}

/// Patches `target` with activations of `source` at every layer of `sites`: at each aligned position alone and at all
/// together; [`Site::Attention`] is patched head by head instead.
///
/// # Errors
/// [`Error::Setting`] for an empty prompt or one longer than the model's context, prompts without a common position, a metric
/// that has the same value for both prompts, or a site that cannot be patched; [`Error::Run`] for a token outside the
/// vocabulary.
pub fn patch(model: &Transformer, prompts: [&[u32]; 2], metric: &Metric, sites: &[Site]) -> Result<Patched> {
    let (spec, layers) = (&model.spec, model.spec.layers);
    let [source, target] = prompts.map(|prompt| metric.text(prompt));
    for tokens in prompts.into_iter().chain([&source[..], &target[..]]) {
        fits(model, tokens)?;
    }
    let tokens = metric.tokens();
    if tokens.is_empty() {
        return Err(Error::Setting("an answer without tokens has no probability".into()));
    }
    if let Some(token) = tokens.iter().find(|token| **token as usize >= spec.vocab) {
        return Err(Error::Run(format!("token id {token} is outside the model's vocabulary")));
    }
    if let Some(site) = sites.iter().find(|site| matches!(site, Site::Embedding | Site::FinalNorm)) {
        return Err(Error::Setting(format!("{}: patching is at sites inside layers", site.name())));
    }
    let pairs = align(&source, &target);
    if pairs.is_empty() {
        return Err(Error::Setting(
            "the prompts have no position in common: neither begin nor end alike".into(),
        ));
    }
    let mut runs = Runs::new(model);
    let mut keep = Keep::new(sites);
    let from = runs.one(&source, metric, &mut keep)?;
    let to = runs.one(&target, metric, &mut ())?;
    let range = from - to;
    if range == 0.0 {
        return Err(Error::Setting(
            "both prompts give the same metric: there is no effect to be found".into(),
        ));
    }
    let mut maps = Vec::new();
    for &site in sites {
        let (columns, count) = match site {
            Site::Attention => (Columns::Heads, spec.heads),
            _ => (Columns::Positions, pairs.len()),
        };
        let mut changes = Vec::new();
        for layer in 0..layers {
            let whole = 0..keep.width(layer, site);
            let change = |pairs: &[[usize; 2]], part: Range<usize>| Replacement {
                layer,
                site,
                pairs: pairs.to_vec(),
                part,
            };
            for column in 0..count {
                changes.push(match columns {
                    Columns::Positions => change(&pairs[column..=column], whole.clone()),
                    Columns::Heads => change(&pairs, column * spec.head_dim..(column + 1) * spec.head_dim),
                });
            }
            changes.push(change(&pairs, whole));
        }
        let found = runs.many(&target, metric, &keep, &changes)?;
        let effects: Vec<f64> = found.into_iter().map(|m| (m - to) / range).collect();
        let mut map = Map { site: site.name(), columns, effects: Vec::new(), together: Vec::new() };
        for row in effects.chunks(count + 1) {
            map.effects.push(row[..count].to_vec());
            map.together.push(row[count]);
        }
        maps.push(map);
    }
    Ok(Patched {
        metric: metric.clone(),
        source: from,
        target: to,
        source_tokens: source,
        target_tokens: target,
        pairs,
        maps,
    })
}

/// Checks that a text can be run.
fn fits(model: &Transformer, tokens: &[u32]) -> Result<()> {
    let (found, context) = (tokens.len(), model.spec.context);
    if (1..=context).contains(&found) {
        return Ok(());
    }
    Err(Error::Setting(format!("a prompt of {found} tokens: patching takes 1 to {context}")))
}

/// The metric of the source's likeliest next token, against that of the target if it is another.
///
/// # Errors
/// [`Error::Setting`] for an empty prompt or one longer than the model's context; whatever the model returns.
pub fn likeliest(model: &Transformer, prompts: [&[u32]; 2]) -> Result<Metric> {
    let mut runs = Runs::new(model);
    let mut best = |tokens: &[u32]| -> Result<u32> {
        fits(model, tokens)?;
        let logits = runs.logits(tokens)?;
        let largest = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
        Ok((0..logits.len()).reduce(largest).unwrap_or(0) as u32)
    };
    let (yes, no) = (best(prompts[0])?, best(prompts[1])?);
    Ok(if yes == no { Metric::Answer(vec![yes]) } else { Metric::Logits { yes, no } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_aligned_from_both_ends() {
        assert_eq!(align(&[1, 2, 3], &[1, 9, 3]), [[0, 0], [1, 1], [2, 2]]);
        assert_eq!(align(&[1, 2, 3, 4], &[1, 9, 9, 9, 4]), [[0, 0], [3, 4]]);
        assert_eq!(align(&[1, 1, 1], &[1, 1]), [[0, 0], [1, 1]]);
        assert_eq!(align(&[5, 6], &[7]), [[0usize; 2]; 0]);
        assert_eq!(align(&[5, 7], &[7]), [[1, 0]]);
    }
}
