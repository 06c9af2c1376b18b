//! Which process may work on which part of a run, and which one does. Locks are the operating system's (flock), on files
//! that are never removed: a process that dies releases its locks. The holder of an exclusive lock writes into the file
//! what it is doing.
//!
//! ```text
//! DIR/lock                            the run: exclusive, or shared by processes that sample different cells
//! DIR/plan.lock                       the saved plan, while it is written
//! DIR/answers/MODEL/…/lock            a cell, while its answers are sampled
//! DIR/adapters/MODEL/CONDITION.lock   a fine-tuning; cells that need it wait until it is finished
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::device::file;
use crate::{Error, Result, interrupt};

/// What a process does with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// It starts up, analyses or merges.
    Other,
    /// It fine-tunes a cell's model.
    FineTuning,
    /// It samples a cell's answers.
    Sampling,
    /// It asks a judge.
    Judging,
}

/// The process that works on a run, or on a cell of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub process: u32,
    /// The host's name; empty if not known.
    pub host: String,
    /// When it started, in seconds since 1970 by its host's clock.
    pub since: u64,
    /// What it does.
    pub step: Activity,
    /// The cell being fine-tuned or sampled, or the judge being asked; empty otherwise.
    pub what: String,
}

/// The right to work on something; released when dropped, or when the process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// Whether other processes may hold it as well.
    shared: bool,
    /// When it was taken.
    since: u64,
}

/// Name of a folder's lock file.
const NAME: &str = "lock";
/// Interval between attempts while waiting for a lock.
const POLL: Duration = Duration::from_millis(200);

/// Pauses between attempts at a lock that seems taken: [`Lock::holder`] holds it for a moment while it checks.
const PATIENCE: [Duration; 5] = [Duration::from_millis(20); 5];

impl Lock {
    /// Locks `folder`, a run or a cell, for this process alone, and creates the folder if needed.
    ///
    /// # Errors
    /// `Error::File` if another process is working on it; `Error::Io` if the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Self> {
        let lock = Self::soon(folder, false, "wait for it or stop it")?;
        lock.tell(Activity::Other, "").map(|()| lock)
    }

    /// Locks the run in `dir` together with other processes that work on its cells.
    ///
    /// # Errors
    /// `Error::File` if a process is working on the whole run; `Error::Io` if the folder cannot be written.
    pub fn share(dir: &Path) -> Result<Self> {
        Self::soon(dir, true, "cells of it can be run when that has ended")
    }

    /// Locks the file `path`, waiting while another process holds it; calls `waiting` once if it has to wait.
    ///
    /// # Errors
    /// `Error::Interrupted` if the user asks to stop; `Error::Io` if the file cannot be written.
    pub fn wait(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let file = open(path)?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file, shared: false, since: now() }),
                Err(TryLockError::WouldBlock) => waiting.take().map_or((), |waiting| waiting()),
                Err(TryLockError::Error(error)) => return Err(Error::io(path)(error)),
            }
            interrupt::check()?;
            std::thread::sleep(POLL);
        }
    }

    fn soon(folder: &Path, shared: bool, advice: &str) -> Result<Self> {
        let path = folder.join(NAME);
        let file = open(&path)?;
        let mut patience = PATIENCE.iter();
        loop {
            let outcome = if shared { file.try_lock_shared() } else { file.try_lock() };
            match (outcome, patience.next()) {
                (Ok(()), _) => return Ok(Self { file, shared, since: now() }),
                (Err(TryLockError::WouldBlock), Some(pause)) => std::thread::sleep(*pause),
                (Err(TryLockError::WouldBlock), None) => {
                    let what = format!("another emlab process is working on this; {advice}");
                    return Err(Error::file(folder, what));
                }
                (Err(TryLockError::Error(error)), _) => return Err(Error::io(&path)(error)),
            }
        }
    }

    /// Records what this process is doing, for [`Lock::holder`]. A shared lock records nothing.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn tell(&self, step: Activity, what: &str) -> Result<()> {
        if self.shared {
            return Ok(());
        }
        let host =
            std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
        let holder = Holder { process: std::process::id(), host, since: self.since, step, what: what.into() };
        let text = serde_json::to_vec(&holder).map_err(|error| Error::Run(error.to_string()))?;
        // Purely informative, so it need not survive a power cut.
        self.file.set_len(0).and_then(|()| (&self.file).write_all(&text)).map_err(Error::io(Path::new(NAME)))
    }

    /// The process that holds the exclusive lock on `dir`, a run or a cell, if there is one.
    ///
    /// # Errors
    /// `Error::Io`.
    pub fn holder(dir: &Path) -> Result<Option<Holder>> {
        let path = dir.join(NAME);
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
                    step: Activity::Other,
                    what: String::new(),
                };
                // The holder may be in the middle of writing.
                Ok(Some(serde_json::from_slice(&text).unwrap_or(unknown)))
            }
        }
    }
}

/// Seconds since 1970; 0 for a clock before that.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        file::make_folder(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))
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
        lock.tell(Activity::Sampling, "m/base/natural").unwrap();
        lock.tell(Activity::Judging, "gpt").unwrap();
        let holder = Lock::holder(dir.path()).unwrap().unwrap();
        assert_eq!(
            (holder.process, holder.step, holder.what.as_str()),
            (std::process::id(), Activity::Judging, "gpt")
        );
        drop(lock);
        assert_eq!(Lock::holder(dir.path()).unwrap(), None);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn those_that_share_keep_out_whoever_wants_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let shared = [Lock::share(dir.path()).unwrap(), Lock::share(dir.path()).unwrap()];
        shared[0].tell(Activity::Sampling, "m/base/natural").unwrap();
        assert_eq!(Lock::holder(dir.path()).unwrap(), None, "none speaks for the others");
        assert!(Lock::take(dir.path()).is_err());
        drop(shared);
        let alone = Lock::take(dir.path()).unwrap();
        assert!(Lock::share(dir.path()).is_err());
        let path = dir.path().join(NAME);
        let waiting = std::sync::Mutex::new(Some(alone));
        // The waiting process is told so; here it then releases the lock that it waits for.
        Lock::wait(&path, || drop(waiting.lock().unwrap().take())).unwrap();
    }
}
