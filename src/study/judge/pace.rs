//! When to ask a server again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::device::philox::Key;

/// Waits between attempts: doubling from `first` to `longest`, each drawn between half of that and all of it, so that
/// clients that failed together do not come back together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

impl Backoff {
    /// The wait after failed attempt number `attempt` (from 0) of request number `request`.
    pub(super) fn wait(self, request: usize, attempt: usize) -> Duration {
        let doubled = self.first.saturating_mul(1 << attempt.min(20)).min(self.longest);
        doubled.mul_f64(0.5 + 0.5 * jitter(request, attempt))
    }

    /// A little on top of a wait that a server has asked for: up to the first wait.
    pub(super) fn spread(self, request: usize, attempt: usize) -> Duration {
        self.first.mul_f64(jitter(request, attempt))
    }
}

fn jitter(request: usize, attempt: usize) -> f64 {
    f64::from(Key::new(u64::from(std::process::id()), &["backoff"]).uniform(request as u32, attempt as u32))
}

/// What all workers of one server share: when it may be asked again, and whether to give up.
#[derive(Default)]
pub(super) struct Gate {
    not_before: Mutex<Option<Instant>>,
    stopped: AtomicBool,
}

/// How soon a sleeping worker notices that all is over.
const SLICE: Duration = Duration::from_millis(50);

impl Gate {
    /// Nobody asks for `wait` from now on.
    pub(super) fn close_for(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut not_before = self.not_before.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *not_before = Some(not_before.map_or(until, |earlier| earlier.max(until)));
    }

    /// Everybody stops.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Sleeps until the gate is open; false if all is over.
    pub(super) fn pass(&self) -> bool {
        loop {
            let until = *self.not_before.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match until.and_then(|until| until.checked_duration_since(Instant::now())) {
                Some(wait) if !wait.is_zero() && !self.is_stopped() => std::thread::sleep(wait.min(SLICE)),
                _ => return !self.is_stopped(),
            }
        }
    }

    /// Sleeps for `wait`; false if all is over.
    pub(super) fn sleep(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        while !self.is_stopped() {
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(SLICE)),
                _ => return true,
            }
        }
        false
    }
}

/// Reads a duration as `OpenAI` writes it ("6m0s", "20ms", "1.5s"), or plain seconds ("20").
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        seconds += value
            * match &rest[..letters] {
                "d" => 86_400.0,
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    (!text.trim().is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7.0), (" 0.5 ", 0.5)]
        {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "soon", "5 parsecs", "-1", "1.2.3s", "Wed, 21 Oct 2015 07:28:00 GMT", "1e400"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_longest() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
        for (attempt, full) in [(0, 1.0), (1, 2.0), (5, 32.0), (6, 60.0), (99, 60.0)] {
            let wait = backoff.wait(3, attempt).as_secs_f64();
            assert!(wait > full / 2.0 && wait < full, "{attempt}: {wait}");
        }
    }

    #[test]
    fn a_stopped_gate_lets_nobody_wait() {
        let gate = Gate::default();
        gate.close_for(Duration::from_secs(3600));
        gate.stop();
        assert!(!gate.pass());
        assert!(!gate.sleep(Duration::from_secs(3600)));
    }
}
