//! L3: downloads models and data sets into the local cache.
//!
//! | file | holds |
//! |---|---|
//! | `http.rs` | `Client`: downloads one address, with retries, resumption and a checksum |
//! | `hub.rs` | [`Hub`]: models in the cache layout of Hugging Face's own tools |
//! | `data.rs` | [`DataSet`]: the study's data, pinned by sha256 |

mod data;
mod http;
mod hub;
#[cfg(test)]
mod server;

use std::path::{Path, PathBuf};

pub use data::{DATA_SETS, DataSet, Source};
pub use hub::Hub;

use crate::error::{Error, Result};

/// The progress of one file.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Bytes on disk.
    pub done: u64,
    /// Bytes of the whole file, if known.
    pub total: Option<u64>,
}

/// The folder of a model: `name` itself if it is one, otherwise its snapshot in the cache.
///
/// # Errors
/// [`Error::File`] or [`Error::Setting`] with the `emlab fetch` command to run, if it is not there.
pub fn locate(name: &str) -> Result<PathBuf> {
    Hub::from_env()?.locate(name)
}

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
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path))
}
