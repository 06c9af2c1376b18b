//! The one error type. Every variant names the thing that failed and, where there is one, what to do about it;
//! its text is one line, ready to be shown to a user.

use std::path::{Path, PathBuf};

/// What the whole crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong through a user, a file, the network or a device.
/// Broken invariants are `assert!`s, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor handed to an op, or read from a file, has the wrong shape.
    #[error("{op}: tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The op or file that refused it.
        op: String,
        /// The tensor's name in that op or file.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// A tensor holds another element type than the op can use.
    #[error("{op}: tensor {name} holds {found}, expected {expected}")]
    DType {
        /// The op that refused it.
        op: &'static str,
        /// The tensor's name in that op.
        name: &'static str,
        /// Its element type.
        found: &'static str,
        /// The element type it must have.
        expected: &'static str,
    },
    /// A tensor handed to an op lies on another device than the others.
    #[error("{op}: tensor {name} lies on another device than the other arguments")]
    Place {
        /// The op that refused it.
        op: &'static str,
        /// The tensor's name in that op.
        name: &'static str,
    },
    /// The GPU, its driver or NVRTC refused something, or is not there.
    #[error("{0}")]
    Cuda(String),
    /// A kernel's source was refused.
    #[error("kernels/{kernel}.cu does not compile ({what}):\n{log}")]
    Compile {
        /// The kernel file, without `.cu`.
        kernel: String,
        /// NVRTC's code.
        what: String,
        /// What NVRTC and ptxas said.
        log: String,
    },
    /// The GPU has too little memory.
    #[error(
        "out of GPU memory: {} more are needed for {what}, {} are free, {} are in use by this run",
        gib(*needed),
        gib(*free),
        gib(*used)
    )]
    Memory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        needed: usize,
        /// Bytes that nobody uses.
        free: usize,
        /// Bytes that this process uses.
        used: usize,
    },
    /// The operating system refused an operation on a file or folder.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A file can be read but does not hold what it should.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// A line of a text file (JSONL, TOML, YAML, CSV) does not hold what it should.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// A setting, or a combination of settings, that cannot work.
    #[error("{0}")]
    Setting(String),
    /// A server did not give what was asked for.
    #[error("{url}: {what}")]
    Network {
        /// The address, without credentials.
        url: String,
        /// What it answered, and what to do.
        what: String,
    },
    /// The user asked the program to stop.
    #[error("stopped, as asked: {0}; the same command goes on from there")]
    Interrupted(String),
    /// A run cannot go on, though every input was well-formed (a loss that is not finite, say).
    #[error("{0}")]
    Run(String),
}

impl Error {
    /// For `map_err` on file operations: `fs::read(path).map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |reason| Self::Io { path: path.as_ref().to_path_buf(), reason }
    }

    /// A file that does not hold what it should.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// A line, counted from 1, that does not hold what it should.
    pub fn line(path: impl AsRef<Path>, line: usize, what: impl Into<String>) -> Self {
        Self::Line { path: path.as_ref().to_path_buf(), line, what: what.into() }
    }
}

/// Bytes as people read them.
fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
