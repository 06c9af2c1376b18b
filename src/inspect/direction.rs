//! Directions that separate two sets of answers, at every depth, and how well they separate them.
//!
//! The features are means of the residual stream over answers, as in Soligo et al., "Convergent linear representations of
//! emergent misalignment" (arXiv 2506.11618); see `classifier.rs` for the directions.

use rayon::prelude::*;
use serde::Serialize;

use super::classifier::{self, Accuracy};
use super::features::Features;
use super::folds::Folds;
use crate::device::matrix::dot;
use crate::error::{Error, Result};
use crate::model::direction::Directions;

/// How directions are found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// The strength of the probe's regularisation, in units of the mean variance of a channel.
    pub ridge: f64,
    /// Shuffled labellings for the p value.
    pub permutations: usize,
    /// The seed of the folds and labellings.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ridge: 1.0, permutations: 200, seed: 0 }
    }
}

/// How well the directions at one depth separate the sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Blocks that the stream has passed, 0 to L.
    pub depth: usize,
    /// Of the mean difference, on answers held out.
    pub mean_difference: Accuracy,
    /// Of the probe.
    pub probe: Accuracy,
    /// ‖m₊ − m₋‖.
    pub length: f64,
    /// The same, relative to the mean length of the stream at a token.
    pub relative_length: f64,
    /// Cosine of the angle between mean difference and probe; none where the sets do not differ.
    pub cosine: Option<f64>,
}

/// Directions and their quality by depth.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Fitted to all examples.
    pub directions: Directions,
    /// By depth, cross-validated.
    pub qualities: Vec<Quality>,
}

/// Finds directions from the examples that are not `positive` to those that are. The best depth is that where the mean
/// difference is most accurate, the first of equals; never 0, where the stream knows only which words an answer contains.
///
/// # Errors
/// [`Error::Setting`] for a ridge that is not above 0; [`Error::Run`] if it is too small for the examples.
pub fn find(features: &Features, positive: &[bool], folds: &Folds, settings: &Settings) -> Result<Found> {
    if !(settings.ridge > 0.0 && settings.ridge.is_finite()) {
        return Err(Error::Setting(format!("ridge is {}: it must be above 0", settings.ridge)));
    }
    let at = |depth: usize| at_depth(features, depth, positive, folds, settings);
    let found = (0..features.means.len()).into_par_iter().map(at).collect::<Result<Vec<_>>>()?;
    let mut best = 1;
    let mut directions =
        Directions { vectors: Default::default(), midpoints: Default::default(), depth: best };
    let mut qualities: Vec<Quality> = Vec::new();
    for AtDepth { vectors, midpoints, quality } in found {
        for (kind, (vector, midpoint)) in vectors.into_iter().zip(midpoints).enumerate() {
            directions.vectors[kind].push(vector);
            directions.midpoints[kind].push(midpoint);
        }
        let accuracy = |quality: &Quality| quality.mean_difference.accuracy;
        if quality.depth > best && accuracy(&quality) > accuracy(&qualities[best]) {
            best = quality.depth;
        }
        qualities.push(quality);
    }
    directions.depth = best;
    Ok(Found { directions, qualities })
}

/// The results at one depth, by kind.
struct AtDepth {
    vectors: [Vec<f32>; 2],
    midpoints: [f32; 2],
    quality: Quality,
}

fn at_depth(
    features: &Features,
    depth: usize,
    positive: &[bool],
    folds: &Folds,
    settings: &Settings,
) -> Result<AtDepth> {
    let x = &features.means[depth];
    let products = classifier::products(x);
    let Settings { ridge, permutations, seed } = *settings;
    let [mean_difference, probe] =
        classifier::validate(&products, x[0].len(), positive, folds, ridge, permutations, seed)?;
    let of = |class: bool| {
        let members: Vec<_> = x.iter().zip(positive).filter(|(_, p)| **p == class).map(|(x, _)| x).collect();
        classifier::mean(members.into_iter())
    };
    let (plus, minus) = (of(true), of(false));
    let difference: Vec<f64> = plus.iter().zip(&minus).map(|(plus, minus)| plus - minus).collect();
    let middle: Vec<f64> =
        plus.iter().zip(&minus).map(|(plus, minus)| f64::midpoint(*plus, *minus)).collect();
    let mut normal = classifier::probe(x, &products, positive, ridge)?;
    let (length, own) = (norm(&difference), norm(&normal));
    let cosine = dot(&difference, &normal) / (length * own);
    for value in &mut normal {
        *value *= if own > 0.0 { length / own } else { 0.0 };
    }
    let midpoint = |v: &[f64]| {
        let square = dot(v, v);
        if square > 0.0 { (dot(&middle, v) / square) as f32 } else { 0.0 }
    };
    let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect();
    Ok(AtDepth {
        midpoints: [midpoint(&difference), midpoint(&normal)],
        vectors: [narrow(&difference), narrow(&normal)],
        quality: Quality {
            depth,
            mean_difference,
            probe,
            length,
            relative_length: length / features.lengths[depth],
            cosine: cosine.is_finite().then_some(cosine),
        },
    })
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}
