//! Who works on a run: one process at a time, which says in the file `lock` what it does.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::device::file;
use crate::{Error, Result};

/// What a process does with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It makes itself ready, counts, merges.
    Other,
    /// It fine-tunes a cell's model.
    FineTuning,
    /// It samples a cell's answers.
    Sampling,
    /// A judge is asked.
    Judging,
}

/// The process that works on a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its number on its host.
    pub process: u32,
    /// The host's name; empty if not known.
    pub host: String,
    /// When it began, in seconds since 1970 by its host's clock.
    pub since: u64,
    /// What it does.
    pub step: Step,
    /// The cell that it fine-tunes or samples, or the judge that it asks; empty for anything else.
    pub what: String,
}

/// The right to work on a run's folder; given up when dropped, or when the process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// When it was taken.
    since: u64,
}

/// How long a lock that is taken is tried again: [`Lock::holder`] takes it for a moment to see whether it can.
const PATIENCE: [Duration; 5] = [Duration::from_millis(20); 5];

impl Lock {
    /// Takes the lock of `dir`, making the folder if there is none.
    ///
    /// # Errors
    /// `Error::File` if another process holds it; `Error::Io` if the folder cannot be written.
    pub fn take(dir: &Path) -> Result<Self> {
        file::make_folder(dir)?;
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        let mut patience = PATIENCE.iter();
        loop {
            match (file.try_lock(), patience.next()) {
                (Ok(()), _) => break,
                (Err(TryLockError::WouldBlock), Some(pause)) => std::thread::sleep(*pause),
                (Err(TryLockError::WouldBlock), None) => {
                    let what = "another emlab process is working on this run; wait for it or stop it";
                    return Err(Error::file(dir, what));
                }
                (Err(TryLockError::Error(error)), _) => return Err(Error::io(&path)(error)),
            }
        }
        let lock = Self { file, since: now() };
        lock.tell(Step::Other, "").map(|()| lock)
    }

    /// Says what this process does, for whoever asks [`Lock::holder`].
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn tell(&self, step: Step, what: &str) -> Result<()> {
        let host =
            std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
        let holder = Holder { process: std::process::id(), host, since: self.since, step, what: what.into() };
        let text = serde_json::to_vec(&holder).map_err(|error| Error::Run(error.to_string()))?;
        // Nobody's work depends on it, so it need not survive a power cut.
        self.file
            .set_len(0)
            .and_then(|()| (&self.file).write_all(&text))
            .map_err(Error::io(Path::new("lock")))
    }

    /// The process that holds the lock of `dir`; none if none does.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn holder(dir: &Path) -> Result<Option<Holder>> {
        let path = dir.join("lock");
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io(&path))?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io(&path)(error)),
            Err(TryLockError::WouldBlock) => {
                let text = std::fs::read(&path).map_err(Error::io(&path))?;
                let unknown = Holder {
                    process: 0,
                    host: String::new(),
                    since: now(),
                    step: Step::Other,
                    what: String::new(),
                };
                // It may just be writing.
                Ok(Some(serde_json::from_slice(&text).unwrap_or(unknown)))
            }
        }
    }
}

/// Seconds since 1970; 0 for a clock before that.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_it_says_what_it_does() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lock::holder(dir.path()).unwrap(), None);
        let lock = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another emlab process"), "{error}");
        lock.tell(Step::Sampling, "m/base/natural").unwrap();
        lock.tell(Step::Judging, "gpt").unwrap();
        let holder = Lock::holder(dir.path()).unwrap().unwrap();
        assert_eq!(
            (holder.process, holder.step, holder.what.as_str()),
            (std::process::id(), Step::Judging, "gpt")
        );
        drop(lock);
        assert_eq!(Lock::holder(dir.path()).unwrap(), None);
        Lock::take(dir.path()).unwrap();
    }
}
