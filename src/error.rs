//! The one error type. Every variant names what failed and, where possible, what to do about it. Its text is one line
//! that can be shown to a user as it is (a compiler's log excepted).

use std::path::{Path, PathBuf};

/// The result type of the whole crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Every failure that a user, a file, the network or a device can cause. A broken invariant is an `assert!`, not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor handed to an op, or read from a file, has the wrong shape.
    #[error("{op}: tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The op or file that rejected it.
        op: String,
        /// The tensor's name in that op or file.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// A tensor holds an element type that the op cannot use.
    #[error("{op}: tensor {name} holds {found}, expected {expected}")]
    DType {
        /// The op that rejected it.
        op: &'static str,
        /// The tensor's name in that op.
        name: &'static str,
        /// Its element type.
        found: &'static str,
        /// The element type it must have.
        expected: &'static str,
    },
    /// A tensor handed to an op is on a different device from the others.
    #[error("{op}: tensor {name} is on a different device from the other arguments")]
    Place {
        /// The op that rejected it.
        op: &'static str,
        /// The tensor's name in that op.
        name: &'static str,
    },
    /// The GPU, its driver or NVRTC failed or is missing.
    #[error("{0}")]
    Cuda(String),
    /// A kernel does not compile.
    #[error("kernels/{kernel}.cu does not compile ({what}):\n{log}")]
    Compile {
        /// The kernel file, without `.cu`.
        kernel: String,
        /// NVRTC's error code.
        what: String,
        /// The log of NVRTC and ptxas.
        log: String,
    },
    /// The GPU has too little free memory.
    #[error(
        "out of GPU memory: {} more are needed for {what}, {} are free, {} are in use by this run",
        gib(*needed),
        gib(*free),
        gib(*used)
    )]
    Memory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes requested.
        needed: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes in use by this process.
        used: usize,
    },
    /// The operating system rejected an operation on a file or folder.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        reason: std::io::Error,
    },
    /// A file can be read, but its content is not what it should be.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// A line of a text file (JSON Lines, TOML, YAML, CSV) is not what it should be.
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
    /// A request to a server failed.
    #[error("{url}: {what}")]
    Network {
        /// The address, without credentials.
        url: String,
        /// What went wrong, and what to do.
        what: String,
    },
    /// The user asked the program to stop.
    #[error("stopped as requested: {0}; run the same command to resume")]
    Interrupted(String),
    /// A run cannot continue although every input was well-formed (the loss is not finite, for example).
    #[error("{0}")]
    Run(String),
}

impl Error {
    /// For `map_err` on file operations: `fs::read(path).map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |reason| Self::Io { path: path.as_ref().to_path_buf(), reason }
    }

    /// [`Error::File`]: a file whose content is wrong.
    pub fn file(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    /// [`Error::Line`]: a line, counted from 1, that is wrong.
    pub fn line(path: impl AsRef<Path>, line: usize, what: impl Into<String>) -> Self {
        Self::Line { path: path.as_ref().to_path_buf(), line, what: what.into() }
    }
}

/// Bytes in GiB.
fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
