//! [`on_workers`]: running a whole pass inside the thread pool.

/// Runs `f` on a worker of the thread pool. From a thread outside the pool, every parallel loop hands its work over and then
/// waits to be woken, which costs some 50 µs a loop; from a worker the loop starts at once. A pass over a model is hundreds of
/// loops.
pub fn on_workers<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
