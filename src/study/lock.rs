//! Who may work on what of a run's folder. The locks are the operating system's (flock), on files that stay: a process
//! that dies gives its locks up.
//!
//! ```text
//! DIR/lock                            the run: one process alone, or several that draw answers for cells of it
//! DIR/plan.lock                       the saved plan, while it is written
//! DIR/answers/MODEL/…/lock            a cell, while its answers are drawn
//! DIR/adapters/MODEL/CONDITION.lock   a fine-tuning: cells that need it wait until it is made
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use crate::{Error, Result, interrupt};

/// The right to work on something; given up when dropped, or when the process dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// The name of the lock on a folder, within it.
const NAME: &str = "lock";
/// How often a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(200);

impl Lock {
    /// Takes `folder`, a run or a cell, for this process alone, making it if there is none.
    ///
    /// # Errors
    /// `Error::File` if another process works on it; `Error::Io` if the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let file = open(&path)?;
        let outcome = file.try_lock();
        Self::held(file, outcome, folder, "wait for it or stop it")
    }

    /// Takes the run in `dir` together with other processes that work on cells of it.
    ///
    /// # Errors
    /// `Error::File` if a process works on the whole run; `Error::Io` if the folder cannot be written.
    pub fn share(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        let file = open(&path)?;
        let outcome = file.try_lock_shared();
        Self::held(file, outcome, dir, "cells of it can be run when that has ended")
    }

    /// Takes the file `path`, waiting as long as another process holds it; `waiting` is called once if one does.
    ///
    /// # Errors
    /// `Error::Interrupted` if the user asks to stop; `Error::Io` if the file cannot be written.
    pub fn wait(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let file = open(path)?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) => waiting.take().map_or((), |waiting| waiting()),
                Err(TryLockError::Error(error)) => return Err(Error::io(path)(error)),
            }
            interrupt::check()?;
            std::thread::sleep(POLL);
        }
    }

    fn held(
        file: File,
        outcome: std::result::Result<(), TryLockError>,
        folder: &Path,
        advice: &str,
    ) -> Result<Self> {
        match outcome {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(folder, format!("another emlab process is working on this; {advice}")))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(folder)(error)),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_run_is_for_one_process_or_for_several_that_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let alone = Lock::take(dir.path()).unwrap();
        let error = Lock::share(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another emlab process") && error.contains("cells of it"), "{error}");
        drop(alone);
        let shared = [Lock::share(dir.path()).unwrap(), Lock::share(dir.path()).unwrap()];
        assert!(Lock::take(dir.path()).unwrap_err().to_string().contains("wait for it or stop it"));
        drop(shared);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn who_waits_says_so_once_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m/c.lock");
        let first = Lock::wait(&path, || unreachable!("nobody holds it")).unwrap();
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let waiting = || {
                    count.fetch_add(1, Ordering::SeqCst);
                };
                Lock::wait(&path, waiting).unwrap()
            });
            std::thread::sleep(2 * POLL);
            drop(first);
            drop(second.join().unwrap());
        });
        assert_eq!(count.into_inner(), 1);
    }
}
