//! A manifest says what the things beside it were made under: a JSON object of settings and hashes, with its own hash.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hash::sha256_json;
use super::write::write_whole;
use crate::device::file;
use crate::{Error, Result};

/// Version of the layout; others are refused. Version 1 had no checksums.
const VERSION: u64 = 2;

/// A ledger's manifest within its folder.
pub const MANIFEST: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    version: u64,
    configuration: Value,
    sha256: String,
}

impl Manifest {
    fn new(configuration: Value) -> Self {
        let sha256 = sha256_json(&configuration);
        Self { version: VERSION, configuration, sha256 }
    }
}

/// The JSON form of what something was made under.
fn json(made_under: &impl Serialize) -> Result<Value> {
    serde_json::to_value(made_under).map_err(|error| impossible(&error))
}

/// Writes the manifest that says what the things beside it were made under, creating its folder if there is none.
///
/// # Errors
/// `Error::Io`.
pub fn write_manifest(path: &Path, made_under: &impl Serialize) -> Result<()> {
    if let Some(folder) = path.parent() {
        file::make_folder(folder)?;
    }
    let manifest = Manifest::new(json(made_under)?);
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(|error| impossible(&error))?;
    write_whole(path, &manifest)
}

/// Whether the manifest `path` exists. If so, what it describes was made under `made_under`.
///
/// # Errors
/// `Error::File` if it was made under something else, naming the settings that differ.
pub fn check(path: &Path, made_under: &impl Serialize) -> Result<bool> {
    let Some(manifest) = read_manifest(path)? else { return Ok(false) };
    let configuration = json(made_under)?;
    if manifest.sha256 != sha256_json(&configuration) {
        let changes = differences("", &manifest.configuration, &configuration).join(", ");
        let what =
            format!("was made with other settings ({changes}); restore them, or choose another folder");
        return Err(Error::file(path, what));
    }
    Ok(true)
}

/// Reads a manifest; none if there is no such file.
fn read_manifest(path: &Path) -> Result<Option<Manifest>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(Error::io(path))?,
    };
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| Error::file(path, format!("damaged: {error}")))?;
    if manifest.version != VERSION {
        let what = format!(
            "layout version {}, this emlab writes {VERSION}; use the emlab that made it",
            manifest.version
        );
        return Err(Error::file(path, what));
    }
    if manifest.sha256 != sha256_json(&manifest.configuration) {
        return Err(Error::file(path, "damaged: the configuration does not match its hash"));
    }
    Ok(Some(manifest))
}

/// What the things beside the manifest `path` were made under; none if there is none.
///
/// # Errors
/// `Error::File` if it is damaged; `Error::Io`.
pub fn configuration(path: &Path) -> Result<Option<Value>> {
    Ok(read_manifest(path)?.map(|manifest| manifest.configuration))
}

/// Checks that the manifest `new` can replace `path`: either nothing is there, or what is there was made under the same
/// configuration.
///
/// # Errors
/// `Error::File` if it was made under another one, naming the settings that differ, or one of them is damaged.
pub fn same_manifest(new: &Path, path: &Path) -> Result<()> {
    let Some(made_under) = configuration(new)? else { return Err(Error::file(new, "is missing")) };
    check(path, &made_under).map(drop)
}

/// The settings that differ, as `training.rank: 16 is now 32`.
fn differences(path: &str, old: &Value, new: &Value) -> Vec<String> {
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let missing = Value::Null;
        return keys
            .into_iter()
            .flat_map(|key| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&path, old.get(key).unwrap_or(&missing), new.get(key).unwrap_or(&missing))
            })
            .collect();
    }
    let short = |value: &Value| {
        let text = value.to_string();
        let end = text.char_indices().nth(40).map_or(text.len(), |(i, _)| i);
        if end < text.len() { format!("{}…", &text[..end]) } else { text }
    };
    if old == new { Vec::new() } else { vec![format!("{path}: {} is now {}", short(old), short(new))] }
}

/// Our own configurations and manifests always have a JSON form.
fn impossible(error: &serde_json::Error) -> Error {
    Error::Run(format!("cannot write a manifest as JSON: {error}"))
}
