//! The cache: the user's folder, and folders in it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The user's cache folder: `XDG_CACHE_HOME`, or `~/.cache`.
///
/// # Errors
/// [`Error::Setting`] if there is no home folder.
pub fn cache_home() -> Result<PathBuf> {
    variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .ok_or_else(|| Error::Setting("no home folder: set HOME, or HF_HOME and XDG_CACHE_HOME".to_owned()))
}

/// An environment variable; `None` if it is unset or empty.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Makes a folder, and those above it.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path))
}
