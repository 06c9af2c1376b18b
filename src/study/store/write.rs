//! Files that are replaced as a whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::device::file;
use crate::{Error, Result};

/// Writes a file so that a reader sees the old bytes or the new ones, never a mixture.
///
/// # Errors
/// `Error::Io`.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        file::sync_folder(path)
    };
    write().map_err(Error::io(path))
}
