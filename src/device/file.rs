//! Files: mapped for reading, and replaced as a whole when written. A write returns once the content, the file's name and
//! its folder's name are on the disk, so that a power failure loses none of them.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file read-only; its pages are read when they are first accessed.
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
        // The first failure is reported. Removing fails if the temporary file was never created.
        let _ = fs::remove_file(&temporary);
        Error::Io { path: path.to_path_buf(), reason }
    })
}

/// `.NAME.PROCESS.tmp` beside `path`: on the same file system, and different for every process.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Removes the temporary files that [`replace`] left in `folder` when its process was killed. No other process may be
/// writing there.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read or written.
pub fn remove_temporary(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden && path.extension().is_some_and(|extension| extension == "tmp") {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Copies a file, writing the copy with [`replace`].
///
/// # Errors
/// [`Error::Io`] naming `to`.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    replace(to, |out| std::io::copy(&mut File::open(from)?, out).map(drop))
}

/// Creates a folder, and its missing parents.
///
/// # Errors
/// [`Error::Io`] if one cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
    }
    match fs::create_dir(path) {
        // Another process has created it meanwhile.
        Err(_) if path.is_dir() => Ok(()),
        made => made.and_then(|()| sync_folder(path)).map_err(Error::io(path)),
    }
}

/// Makes the name of `path` in its folder survive a power failure. Only Unix can open a folder to sync it.
///
/// # Errors
/// Those of the operating system.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
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
    fn folders_are_created_and_temporary_files_of_a_killed_process_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b/c");
        make_folder(&folder).unwrap();
        make_folder(&folder).unwrap();
        fs::write(temporary(&folder.join("big")), "half").unwrap();
        fs::write(folder.join("kept.tmp"), "").unwrap();
        copy(&folder.join("kept.tmp"), &folder.join("copy")).unwrap();
        remove_temporary(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert!(make_folder(&folder.join("copy/d")).unwrap_err().to_string().contains("copy"));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/a.json");
        assert!(replace(&path, |_| Ok(())).unwrap_err().to_string().contains("none/a.json"));
    }
}
