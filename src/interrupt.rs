//! Whether the user has asked the program to stop. Loops that can save everything and stop between two steps check it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Asks every loop to stop. True if they had been asked before.
pub fn request() -> bool {
    REQUESTED.swap(true, Ordering::Relaxed)
}

/// Whether a stop has been requested.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Ends a loop that has nothing to save, if a stop has been requested.
///
/// # Errors
/// [`Error::Interrupted`] if it has.
pub fn check() -> Result<()> {
    if requested() { Err(Error::Interrupted("finished work is kept".into())) } else { Ok(()) }
}
