//! While one thread records a graph, no other may use the card: what it put on the stream would become part of the graph.
//! At all other times threads use the card side by side.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Memory that a recorded graph keeps alive.
pub(super) type Kept = Arc<dyn Any + Send + Sync>;

/// Locked for writing by the thread that records, for reading by all others.
static CARD: RwLock<()> = RwLock::new(());

thread_local! {
    /// How many turns of this thread are open, one inside the other; the outermost holds the lock.
    static TURNS: Cell<u32> = const { Cell::new(0) };
    /// While this thread records: the allocations that the graph uses, each once.
    static RECORDED: RefCell<Option<Vec<Kept>>> = const { RefCell::new(None) };
}

/// While it lives, no other thread records. Turns of one thread nest: the last taken ends first.
#[must_use]
pub(super) struct Turn(Option<RwLockReadGuard<'static, ()>>);

/// Waits while another thread records.
pub(super) fn take() -> Turn {
    let outermost = TURNS.get() == 0;
    let guard = outermost.then(|| CARD.read().unwrap_or_else(PoisonError::into_inner));
    TURNS.set(TURNS.get() + 1);
    Turn(guard)
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.set(TURNS.get() - 1);
        drop(self.0.take());
    }
}

/// While it lives, only this thread uses the card.
#[must_use]
pub(super) struct Recording(Option<RwLockWriteGuard<'static, ()>>);

/// Waits until no other thread has a turn.
pub(super) fn record() -> Recording {
    assert_eq!(TURNS.get(), 0, "a recording cannot begin inside a turn");
    let guard = CARD.write().unwrap_or_else(PoisonError::into_inner);
    TURNS.set(1);
    RECORDED.set(Some(Vec::new()));
    Recording(Some(guard))
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDED.set(None);
        TURNS.set(TURNS.get() - 1);
        drop(self.0.take());
    }
}

/// The memory used since this thread's recording began.
pub(super) fn recorded() -> Vec<Kept> {
    RECORDED.take().unwrap_or_default()
}

/// Whether this thread records.
pub(super) fn is_recording() -> bool {
    RECORDED.with_borrow(Option::is_some)
}

/// While this thread records, remembers that the graph uses `memory`.
pub(super) fn keep<T: Any + Send + Sync>(memory: &Arc<T>) {
    RECORDED.with_borrow_mut(|recorded| {
        let Some(recorded) = recorded else { return };
        let known = |kept: &Kept| std::ptr::addr_eq(Arc::as_ptr(kept), Arc::as_ptr(memory));
        if !recorded.iter().any(known) {
            recorded.push(Arc::<T>::clone(memory));
        }
    });
}

/// A value shared by the ops of all threads, locked by one of them during its turn.
pub struct Shared<'a, T> {
    value: MutexGuard<'a, T>,
    _turn: Turn,
}

/// Locks something shared that is needed to put work on the stream. The turn is taken before the lock; in the other order a
/// recording thread and a thread that holds the lock would wait for each other.
pub fn share<T>(shared: &Mutex<T>) -> Shared<'_, T> {
    let turn = take();
    Shared { value: shared.lock().unwrap_or_else(PoisonError::into_inner), _turn: turn }
}

impl<T> Deref for Shared<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Shared<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[test]
    fn no_other_thread_has_a_turn_while_one_records() {
        static SHARED: Mutex<u32> = Mutex::new(0);
        let (recording, turns) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (recording, turns) = (&recording, &turns);
                scope.spawn(move || {
                    for _ in 0..500 {
                        if thread < 2 {
                            let _recording = record();
                            assert!(is_recording() && !recording.swap(true, Ordering::SeqCst));
                            assert_eq!(turns.load(Ordering::SeqCst), 0);
                            *share(&SHARED) += 1;
                            recording.store(false, Ordering::SeqCst);
                        } else {
                            let mut shared = share(&SHARED);
                            turns.fetch_add(1, Ordering::SeqCst);
                            let _inner = take();
                            assert!(!is_recording() && !recording.load(Ordering::SeqCst));
                            *shared += 1;
                            turns.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(*share(&SHARED), 3000);
    }
}
