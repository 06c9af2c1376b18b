//! A plan's text: errors that name its lines, and resolution of the paths in it.

use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::fetch::{self, DataSet};
use crate::{Error, Result};

/// A plan's text, for errors that name the line.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
    /// Whether a missing model is an error.
    pub(super) models_needed: bool,
}

impl Source<'_> {
    pub(super) fn error(&self, at: usize, what: impl Into<String>) -> Error {
        let line = self.text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count() + 1;
        Error::line(self.path, line, what)
    }

    pub(super) fn toml_error(&self, error: &toml::de::Error) -> Error {
        let message = error.message().replace('\n', " ");
        self.error(error.span().map_or(0, |span| span.start), message)
    }

    pub(super) fn absolute(&self, path: &Path) -> Result<PathBuf> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let path = folder.join(path);
        std::path::absolute(&path).map_err(Error::io(&path))
    }

    /// A model's folder: a path, or the name of a fetched model.
    pub(super) fn model_folder(&self, at: usize, path: &Path) -> Result<PathBuf> {
        let absolute = self.absolute(path)?;
        if absolute.try_exists().map_err(Error::io(&absolute))? {
            return Ok(absolute);
        }
        let explain = |error| self.error(at, format!("no model folder at {}: {error}", absolute.display()));
        match fetch::locate(&path.to_string_lossy()) {
            Err(_) if !self.models_needed => Ok(path.to_path_buf()),
            found => found.map_err(explain),
        }
    }

    /// A data file: a path, or the name of a pinned data set.
    pub(super) fn data_file(&self, path: &Spanned<PathBuf>, what: &str) -> Result<PathBuf> {
        let absolute = self.absolute(path.get_ref())?;
        if absolute.try_exists().map_err(Error::io(&absolute))? {
            return Ok(absolute);
        }
        let at = path.span().start;
        match DataSet::find(&path.get_ref().to_string_lossy()) {
            Some(set) => set.locate().map_err(|error| self.error(at, error.to_string())),
            None => Err(self.error(at, format!("no {what} at {}", absolute.display()))),
        }
    }
}
