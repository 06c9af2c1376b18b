//! The fields that the `config.json` files of both families share: windows, rotary parameters, bounds, refusals.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::ops::rope::Rope;

/// The rotary parameters of one kind of layer: an entry of `rope_parameters`, or the old `rope_scaling`.
#[derive(Deserialize, Clone, Default)]
#[serde(default)]
pub(super) struct RopeFields {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    factor: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

impl RopeFields {
    /// The rope these fields describe, `base` where they name no theta.
    pub(super) fn rope(&self, path: &Path, base: f64) -> Result<Rope> {
        refuse(path, "partial_rotary_factor", self.partial_rotary_factor.is_some_and(|p| p != 1.0))?;
        let base = self.rope_theta.unwrap_or(base);
        refuse(path, "rope_theta (must be above 1)", !(base.is_finite() && base > 1.0))?;
        match self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default") {
            "default" => Ok(Rope { base, factor: 1.0 }),
            "linear" => {
                let factor = self.factor.unwrap_or(f64::NAN);
                refuse(
                    path,
                    "rope type linear (its factor must be 1 or more)",
                    !(factor >= 1.0 && factor.is_finite()),
                )?;
                Ok(Rope { base, factor })
            }
            other => Err(Error::file(
                path,
                format!("rope type `{other}` is not supported; default and linear are"),
            )),
        }
    }
}

/// The most layers that a config may ask for: far above any checkpoint, and few enough for the lists made for each layer.
const MOST_LAYERS: usize = 1 << 10;

/// Checks the number of layers, before any list with an entry for each layer is made.
pub(super) fn layers(path: &Path, layers: usize) -> Result<usize> {
    bounded(path, "num_hidden_layers", layers, MOST_LAYERS)?;
    Ok(layers)
}

/// Checks that a size is in 1 ..= `most`.
pub(super) fn bounded(path: &Path, name: &str, size: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&size) {
        return Ok(());
    }
    Err(Error::file(path, format!("`{name}` is {size}, expected 1 to {most}")))
}

/// The window of each layer from the `layer_types` of a config.
pub(super) fn windows(
    path: &Path,
    types: &[String],
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>> {
    if types.len() != layers {
        let what = format!("`layer_types` has {} entries for {layers} layers", types.len());
        return Err(Error::file(path, what));
    }
    let of = |kind: &String| match (kind.as_str(), window) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(_)) => Ok(window),
        ("sliding_attention", None) => {
            Err(Error::file(path, "`layer_types` names sliding_attention but there is no `sliding_window`"))
        }
        (other, _) => Err(Error::file(path, format!("layer type `{other}` is not supported"))),
    };
    types.iter().map(of).collect()
}

/// Refuses a config in which `field` has a value this engine does not compute.
pub(super) fn refuse(path: &Path, field: &str, present: bool) -> Result<()> {
    if present { Err(Error::file(path, format!("this value of `{field}` is not supported"))) } else { Ok(()) }
}

/// A part of a config as its Rust type.
pub(super) fn from_value<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::file(path, e.to_string()))
}
