//! The change ΔW that an adapter makes to each module, alone or compared with another adapter's.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::spectrum::{Spectrum, overlap};
use crate::error::{Error, Result};
use crate::inspect::sums::square_sum;
use crate::model::checkpoint::Checkpoint;
use crate::model::peft;

/// One module's change.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// `model.layers.3.self_attn.q_proj` for instance.
    pub module: String,
    /// ‖ΔW‖, the Frobenius norm.
    pub norm: f64,
    /// ‖W‖ of the base weight, if the base is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_norm: Option<f64>,
    /// The effective rank: exp of the entropy of σ²/Σσ².
    pub effective_rank: f64,
    /// The singular values σ of ΔW, in descending order.
    pub singular_values: Vec<f64>,
    /// How it compares with another adapter's, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// A module's change beside another adapter's.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Against {
    /// ‖ΔW'‖ of the other.
    pub norm: f64,
    /// ⟨ΔW, ΔW'⟩ / ‖ΔW‖‖ΔW'‖.
    pub cosine: f64,
    /// The overlap, from 0 to 1, of the spaces that the strongest output directions span.
    pub output_overlap: f64,
    /// The same for the input directions.
    pub input_overlap: f64,
}

/// The changes of the PEFT adapter in `dir`, module by module, beside the weights of `base` if it is given, and compared with
/// those of the adapter in `other` if that is given; overlaps are of the `top` strongest directions.
///
/// # Errors
/// As [`peft::factors`]; [`Error::File`] if the two adapt different modules or sizes; as [`Checkpoint::tensor`] if `base` has
/// no such modules.
pub fn diff(dir: &Path, other: Option<&Path>, base: Option<&Checkpoint>, top: usize) -> Result<Vec<Change>> {
    let first = spectra(dir)?;
    let second = other.map(spectra).transpose()?;
    if let (Some(other), Some(second)) = (other, &second) {
        let shape = |(module, spectrum): &(String, Spectrum)| {
            (module.clone(), [&spectrum.left, &spectrum.right].map(|space| space[0].len()))
        };
        if !first.iter().map(shape).eq(second.iter().map(shape)) {
            let what = format!("adapts other modules than {}, or of other sizes", dir.display());
            return Err(Error::file(other, what));
        }
    }
    // One weight at a time: it is large, and all threads read it together.
    let weight = |(module, spectrum): &(String, Spectrum)| {
        let Some(base) = base else { return Ok(None) };
        let shape = [&spectrum.left, &spectrum.right].map(|space| space[0].len());
        let weight = base.tensor(&format!("{module}.weight"), &shape)?;
        Ok(Some(square_sum(&weight.numbers()?).sqrt()))
    };
    let weight_norms = first.iter().map(weight).collect::<Result<Vec<_>>>()?;
    let change = |(i, (module, spectrum)): (usize, &(String, Spectrum))| {
        let against = second.as_ref().map(|second| {
            let other = &second[i].1;
            Against {
                norm: other.norm(),
                cosine: spectrum.cosine(other),
                output_overlap: overlap(&spectrum.left, &other.left, top),
                input_overlap: overlap(&spectrum.right, &other.right, top),
            }
        });
        Change {
            module: module.clone(),
            norm: spectrum.norm(),
            weight_norm: weight_norms[i],
            effective_rank: spectrum.effective_rank(),
            singular_values: spectrum.values.clone(),
            against,
        }
    };
    Ok(first.par_iter().enumerate().map(change).collect())
}

fn spectra(dir: &Path) -> Result<Vec<(String, Spectrum)>> {
    let (lora, factors) = peft::factors(dir)?;
    let spectrum = |peft::Factors { module, a, b }: &peft::Factors| {
        (module.clone(), Spectrum::of_product(f64::from(lora.scale()), b.f32(), a.f32(), lora.rank))
    };
    Ok(factors.par_iter().map(spectrum).collect())
}
