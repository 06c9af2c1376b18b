//! The files that a run needs to continue where it stopped: `run.json`, which identifies the run, and
//! `checkpoint-STEP.safetensors`, which holds the trained weights and the optimiser's two moments. A checkpoint's
//! name carries the step, and a file of that name is always complete: it is written under a temporary name and renamed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::example::Example;
use super::optimiser::Moments;
use super::settings::Settings;
use crate::device::{Device, Tensor, file};
use crate::error::{Error, Result};
use crate::model::checkpoint::{read_safetensors, write_safetensors};
use crate::model::text::Text;
use crate::model::transformer::Transformer;

/// Number of checkpoints that are kept. If the newest is damaged, one is left.
const KEPT: usize = 2;

/// The content of `run.json`.
#[derive(Serialize, Deserialize)]
struct RunFile {
    /// SHA-256 over everything that decides the result.
    fingerprint: String,
    settings: Settings,
}

/// SHA-256, in hexadecimal, over everything that decides a run's result: the settings, the examples, the names and
/// shapes of the trained parameters, and the GPU if there is one.
pub fn fingerprint(model: &Transformer, examples: &[Example], settings: &Settings) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(settings).map_err(|error| Error::Setting(error.to_string()))?);
    for Example { text: Text { ids, answer }, .. } in examples {
        hash.update((ids.len() as u64).to_le_bytes());
        for (id, loss) in ids.iter().zip(answer) {
            hash.update((u64::from(*id) << 1 | u64::from(*loss)).to_le_bytes());
        }
    }
    for (name, parameter) in model.trainable() {
        hash.update(format!("{name}{:?}", parameter.value.shape()));
    }
    // Results differ between cards, which add in different orders; on the CPU they are the same everywhere.
    if let Device::Cuda(gpu) = model.place.device {
        hash.update(format!("{} {}", gpu.facts().name, model.place.real.name()));
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Writes `run.json` into `dir`, or checks that the run already there is the same.
///
/// # Errors
/// [`Error::File`] if `dir` holds another run; [`Error::Io`] if it cannot be written.
pub fn claim(dir: &Path, fingerprint: &str, settings: &Settings) -> Result<()> {
    file::make_folder(dir)?;
    file::remove_temporary(dir)?;
    let path = dir.join("run.json");
    if path.exists() || !checkpoints(dir)?.is_empty() {
        let run: Option<RunFile> = fs::read(&path).ok().and_then(|found| serde_json::from_slice(&found).ok());
        if run.is_some_and(|run| run.fingerprint == fingerprint) {
            return Ok(());
        }
        let what =
            "holds a run of other settings, data, model or device: choose another folder, or remove this one";
        return Err(Error::file(dir, what));
    }
    let run = RunFile { fingerprint: fingerprint.into(), settings: settings.clone() };
    let text = serde_json::to_vec_pretty(&run).map_err(|error| Error::file(&path, error.to_string()))?;
    file::replace(&path, |out| out.write_all(&text))
}

/// Writes the checkpoint of `step` and removes all but the newest two.
///
/// # Errors
/// [`Error::Io`] if it cannot be written; the older checkpoints are then still there.
pub fn save(dir: &Path, step: usize, model: &Transformer, moments: &[Moments]) -> Result<()> {
    let mut tensors = Vec::new();
    for ((name, parameter), moments) in model.trainable().into_iter().zip(moments) {
        tensors.push((format!("{name}.mean"), moments.mean.to(Device::Cpu)?));
        tensors.push((format!("{name}.square"), moments.square.to(Device::Cpu)?));
        tensors.push((name, parameter.full().to(Device::Cpu)?));
    }
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    write_safetensors(&path_of(dir, step), &tensors, &[("step", &step.to_string())])?;
    for (old, path) in checkpoints(dir)?.iter().rev().skip(KEPT) {
        assert!(*old < step, "checkpoint {old} is newer than the run at {step}");
        fs::remove_file(path).map_err(Error::io(path))?;
    }
    Ok(())
}

/// Loads the newest checkpoint in `dir` and returns its step; 0, with nothing changed, if there is none.
///
/// # Errors
/// [`Error::File`] or [`Error::Shape`] if the checkpoint does not fit the model.
pub fn load(dir: &Path, model: &mut Transformer, moments: &mut [Moments]) -> Result<usize> {
    let Some((step, path)) = checkpoints(dir)?.pop() else { return Ok(0) };
    let mut tensors: std::collections::HashMap<String, Tensor> =
        read_safetensors(&path)?.into_iter().collect();
    for ((name, parameter), moments) in model.trainable_mut().into_iter().zip(moments) {
        let mut take = |name: String, shape: &[usize]| {
            let tensor = tensors.remove(&name).ok_or_else(|| {
                let what = format!("no tensor {name}: remove this checkpoint to resume from the one before");
                Error::file(&path, what)
            })?;
            if tensor.shape() == shape {
                return Ok(tensor);
            }
            let (found, expected) = (tensor.shape().to_vec(), shape.to_vec());
            Err(Error::Shape { op: path.display().to_string(), name, found, expected })
        };
        let shape = parameter.value.shape().to_vec();
        moments.mean.copy_from(&take(format!("{name}.mean"), &shape)?)?;
        moments.square.copy_from(&take(format!("{name}.square"), &shape)?)?;
        parameter.write(0, take(name, &shape)?.f32())?;
    }
    Ok(step)
}

fn path_of(dir: &Path, step: usize) -> PathBuf {
    dir.join(format!("checkpoint-{step:08}.safetensors"))
}

/// The steps of the checkpoints in `dir`, ascending.
pub fn checkpoints(dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let step = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort_unstable();
    Ok(found)
}
