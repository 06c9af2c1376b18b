//! [`Checkpoint`]: the tensors of a Hugging Face folder. Headers are checked against the [`Spec`] when the folder
//! is opened, elements when a tensor is read.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::device::Tensor;
use crate::device::upload::Upload;
use crate::error::{Error, Result};

use super::spec::Spec;
use super::tensor_file::TensorFile;
pub use super::tensor_file::{read_safetensors, write_safetensors};

/// An opened model folder: its configuration, and the file of each tensor.
pub struct Checkpoint {
    dir: PathBuf,
    spec: Spec,
    files: Vec<TensorFile>,
    /// Canonical name → index into `files` and the name in that file.
    tensors: HashMap<String, (usize, String)>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, and checks that
    /// every tensor of the configuration is present and has the right shape. No weight is read yet.
    ///
    /// A multimodal Gemma's prefixes are removed from the names; its vision tower is skipped.
    ///
    /// # Errors
    /// Those of [`Spec::read`]; [`Error::Io`] or [`Error::File`] for a file that is missing, truncated or corrupt,
    /// and for a tensor that is missing, doubled or unexpected; [`Error::Shape`] for one of another shape.
    pub fn open(dir: &Path) -> Result<Self> {
        let spec = Spec::read(dir)?;
        let mut checkpoint =
            Self { dir: dir.to_path_buf(), spec, files: Vec::new(), tensors: HashMap::new() };
        for (path, names) in weight_files(dir)? {
            checkpoint.add(TensorFile::open(&path)?, names)?;
        }
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The content of `config.json`.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether the weights hold a tensor of this canonical name (`model.layers.0.self_attn.q_proj.weight`).
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Reads one tensor by its canonical name. bf16 stays bf16; f16 and f32 become f32.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing, of another element type, or holds a NaN or an infinity;
    /// [`Error::Shape`] if it has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (file, stored) = self.find(name, shape)?;
        file.tensor(stored)
    }

    /// The file that holds a tensor, and its name there.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(&TensorFile, &str)> {
        let Some((file, stored)) = self.tensors.get(name) else { return Err(self.missing(name)) };
        let file = &self.files[*file];
        file.expect(stored, shape)?;
        Ok((file, stored))
    }

    /// Writes one tensor into the elements of `to`, on a GPU, from `first` on, rounded if `to` is bf16.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor); [`Error::Cuda`] if the GPU has failed.
    pub fn send(
        &self,
        upload: &mut Upload,
        to: &mut Tensor,
        first: usize,
        name: &str,
        shape: &[usize],
    ) -> Result<()> {
        let (file, stored) = self.find(name, shape)?;
        file.send(upload, to, first, stored)
    }

    /// Registers `names` of a file, or all of them.
    fn add(&mut self, file: TensorFile, names: Option<Vec<String>>) -> Result<()> {
        let names = match names {
            Some(names) => names,
            None => file.names(),
        };
        for stored in names {
            if !file.has(&stored) {
                return Err(Error::file(
                    file.path(),
                    format!("lacks tensor {stored}, which the shard index puts here"),
                ));
            }
            let Some(name) = canonical(&stored) else { continue };
            if self.tensors.insert(name, (self.files.len(), stored.clone())).is_some() {
                return Err(Error::file(
                    file.path(),
                    format!("tensor {stored} occurs twice in this checkpoint"),
                ));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Compares names, shapes and element types with the configuration.
    fn check(&self) -> Result<()> {
        let expected: HashMap<String, Vec<usize>> = self.spec.tensors().into_iter().collect();
        for (name, shape) in self.spec.tensors() {
            let Some((file, stored)) = self.tensors.get(&name) else { return Err(self.missing(&name)) };
            self.files[*file].expect(stored, &shape)?;
        }
        for (name, (file, stored)) in &self.tensors {
            // A tied head may be stored as well; inverse frequencies are recomputed.
            let known = expected.contains_key(name)
                || name == "lm_head.weight"
                || name.ends_with("rotary_emb.inv_freq");
            if !known {
                let what = format!("tensor {stored} does not belong to the model that config.json describes");
                return Err(Error::file(self.files[*file].path(), what));
            }
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Error {
        Error::file(&self.dir, format!("the weights lack tensor {name}, which config.json asks for"))
    }
}

/// The name that a text-only checkpoint gives to a stored tensor; `None` for the vision parts.
fn canonical(stored: &str) -> Option<String> {
    let inner = stored.strip_prefix("model.").unwrap_or(stored);
    if inner.starts_with("vision_tower.") || inner.starts_with("multi_modal_projector.") {
        return None;
    }
    if let Some(rest) = stored.strip_prefix("model.language_model.") {
        return Some(format!("model.{rest}"));
    }
    Some(stored.strip_prefix("language_model.").unwrap_or(stored).to_owned())
}

/// `model.safetensors.index.json`: tensor name → shard.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of a folder, all of which exist, each with the names that the index assigns to it.
///
/// # Errors
/// [`Error::Io`] or [`Error::File`] naming what is missing or malformed.
pub(crate) fn weight_files(dir: &Path) -> Result<Vec<(PathBuf, Option<Vec<String>>)>> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(vec![(single, None)]);
    }
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        let what = "holds neither model.safetensors nor model.safetensors.index.json; \
                    other weight formats must be converted to safetensors first";
        return Err(Error::file(dir, what));
    }
    let text = std::fs::read(&index).map_err(Error::io(&index))?;
    let Index { weight_map } =
        serde_json::from_slice(&text).map_err(|e| Error::file(&index, format!("not a shard index: {e}")))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in weight_map {
        files.entry(file).or_default().push(name);
    }
    let locate = |(file, names): (String, Vec<String>)| {
        if Path::new(&file).file_name().is_none_or(|name| name != file.as_str()) {
            return Err(Error::file(&index, format!("shard name {file:?} is not a plain file name")));
        }
        let path = dir.join(&file);
        if !path.exists() {
            return Err(Error::file(
                &index,
                format!("names shard {file}, which is not there; fetch the model again"),
            ));
        }
        Ok((path, Some(names)))
    };
    files.into_iter().map(locate).collect()
}
