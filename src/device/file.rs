//! Files as the rest of the crate needs them: mapped for reading, replaced as a whole when written.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file read-only; its pages are read when they are touched.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: as for C mmap(2) with PROT_READ and MAP_PRIVATE, the bytes must not change while mapped. Checkpoints
    // are written to a temporary name and renamed, by this crate and by Hugging Face's tools, never in place.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}

/// Writes a file through `write`, so that at any moment `path` holds either its old content or all of the new:
/// temporary file beside it, fsync, rename. On failure the temporary file is removed and `path` is untouched.
///
/// # Errors
/// [`Error::Io`] naming `path` if the disk is full, the folder is missing or read-only, and the like.
pub fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let temporary = temporary(path);
    let attempt = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        write(&mut out)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    };
    attempt().map_err(|reason| {
        // The first failure is the one to report; a temporary file that was never made cannot be removed either.
        let _ = fs::remove_file(&temporary);
        Error::Io { path: path.to_path_buf(), reason }
    })
}

/// `.NAME.PROCESS.tmp` beside `path`: on the same file system, and not another process's.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Makes a rename in the folder of `path` survive a power failure. Only Unix can open a folder to sync it.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        replace(&path, |out| out.write_all(b"old")).unwrap();
        let error = replace(&path, |out| {
            out.write_all(b"half")?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        });
        assert!(error.unwrap_err().to_string().contains("a.json"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/a.json");
        assert!(replace(&path, |_| Ok(())).unwrap_err().to_string().contains("none/a.json"));
    }
}
