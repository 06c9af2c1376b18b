//! The book of GPU memory: how much is in use, and what for.

use std::cell::Cell;

/// Bytes in use, by what they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes now.
    pub used: usize,
    /// The most bytes at any time.
    pub peak: usize,
    /// Bytes now of each purpose, in the order of first use.
    pub purposes: Vec<(&'static str, usize)>,
    /// How often memory was allocated so far.
    pub allocations: usize,
}

impl Memory {
    /// Books an allocation.
    pub(super) fn add(&mut self, purpose: &'static str, bytes: usize) {
        self.allocations += 1;
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        match self.purposes.iter_mut().find(|(name, _)| *name == purpose) {
            Some((_, used)) => *used += bytes,
            None => self.purposes.push((purpose, bytes)),
        }
    }

    /// Books the end of an allocation.
    pub(super) fn remove(&mut self, purpose: &'static str, bytes: usize) {
        self.used -= bytes;
        if let Some((_, used)) = self.purposes.iter_mut().find(|(name, _)| *name == purpose) {
            *used -= bytes;
        }
    }
}

thread_local! {
    static PURPOSE: Cell<&'static str> = const { Cell::new("other") };
}

/// Labels what `f` allocates on this thread.
pub fn purpose<R>(name: &'static str, f: impl FnOnce() -> R) -> R {
    let before = PURPOSE.replace(name);
    let result = f();
    PURPOSE.set(before);
    result
}

/// The label of what this thread allocates now.
pub(super) fn current_purpose() -> &'static str {
    PURPOSE.get()
}
