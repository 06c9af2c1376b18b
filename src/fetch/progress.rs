//! [`Progress`]: how far the download of a file is.

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
