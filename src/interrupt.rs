//! Whether the user has asked the program to stop. Loops that can stop between two steps, with everything saved, ask.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Asks every loop to stop; true if that had been asked before.
pub fn request() -> bool {
    REQUESTED.swap(true, Ordering::Relaxed)
}

/// Whether to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Stops a loop that has nothing to save.
///
/// # Errors
/// [`Error::Interrupted`] if that is asked.
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted("what was finished is kept".into())) } else { Ok(()) }
}
