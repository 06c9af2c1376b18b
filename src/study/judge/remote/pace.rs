//! When to send requests: how many may be in flight, waits between attempts, the deadline, and the budget that requests
//! in flight may still use.
//!
//! The number of requests in flight adapts to the server, as TCP adapts to a network (additive increase, multiplicative
//! decrease; Chiu and Jain 1989). It grows by one for each round of answers, up to the plan's concurrency, and halves
//! when the server is overloaded, once for all requests that were in flight then. `OpenAI`'s headers
//! (x-ratelimit-remaining-*, x-ratelimit-reset-*) lower it before that happens.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ureq::http::HeaderMap;

use crate::device::philox::Key;
use crate::interrupt;

/// Waits between attempts. They double from `first` to `longest`; each is drawn between half and all of that, so that
/// clients that failed together do not retry together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait after failed attempt number `attempt` (from 0) of request number `request`; longer if the server asks.
    pub(super) fn wait(self, request: usize, attempt: usize, asked: Option<Duration>) -> Duration {
        if let Some(asked) = asked {
            return asked + self.first.mul_f64(jitter(request, attempt));
        }
        let doubled = self.first.saturating_mul(1 << attempt.min(20)).min(self.longest);
        doubled.mul_f64(0.5 + 0.5 * jitter(request, attempt))
    }
}

fn jitter(request: usize, attempt: usize) -> f64 {
    f64::from(Key::new(u64::from(std::process::id()), &["backoff"]).uniform(request as u32, attempt as u32))
}

/// Why no further requests may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The work has ended for another reason.
    Over,
    /// The user has asked to stop.
    Interrupted,
    /// The time is up.
    Deadline,
    /// The next request could exceed the budget.
    Budget,
}

/// How a request ended.
pub(super) enum Sign {
    /// It was answered.
    Good(Allowance),
    /// The server is overloaded; no request should be sent for this long.
    Busy(Duration),
    /// It failed in a way that says nothing about the server's load.
    Failed,
}

/// Permission to send a request.
pub(super) struct Permit {
    begun: Instant,
    dollars: f64,
}

/// The state that all workers of one server share.
pub(super) struct Pace {
    state: Mutex<Shared>,
    changed: Condvar,
    /// Maximum number of requests in flight.
    most: usize,
    /// Time limit, counted from the first [`Pace::start`].
    deadline: Option<Duration>,
    /// In dollars.
    budget: Option<f64>,
}

struct Shared {
    /// Limit on requests in flight, from the answers so far.
    window: f64,
    /// Limit on requests in flight, from the server's latest headers.
    ceiling: usize,
    under_way: usize,
    /// When the window was last halved.
    halved: Option<Instant>,
    not_before: Option<Instant>,
    begun: Option<Instant>,
    stopped: bool,
    /// Tokens per request, a running mean.
    tokens: f64,
    /// Dollars.
    spent: f64,
    /// Upper bound, in dollars, of the cost of what is in flight.
    reserved: f64,
}

/// How often a sleeping worker checks whether to stop.
const SLICE: Duration = Duration::from_millis(50);
/// Requests in flight at the beginning.
const FIRST_WINDOW: f64 = 4.0;
/// If the server asks for a longer wait than this, the run stops, and can be resumed later.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(600);

impl Pace {
    /// Allows at most `most` requests in flight, until `deadline`, and while `spent` plus new costs stay within `budget`.
    pub(super) fn new(most: usize, deadline: Option<Duration>, budget: Option<f64>, spent: f64) -> Self {
        let state = Shared {
            window: FIRST_WINDOW.min(most as f64),
            ceiling: usize::MAX,
            under_way: 0,
            halved: None,
            not_before: None,
            begun: None,
            stopped: false,
            tokens: 0.0,
            spent,
            reserved: 0.0,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), most, deadline, budget }
    }

    fn state(&self) -> MutexGuard<'_, Shared> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts the work, or resumes it after [`Self::stop`].
    pub(super) fn start(&self) {
        let mut state = self.state();
        state.stopped = false;
        state.begun.get_or_insert_with(Instant::now);
    }

    /// Stops all workers.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    fn check(&self, state: &Shared) -> Result<(), Stop> {
        if state.stopped {
            Err(Stop::Over)
        } else if interrupt::requested() {
            Err(Stop::Interrupted)
        } else if self.deadline.zip(state.begun).is_some_and(|(deadline, begun)| begun.elapsed() >= deadline)
        {
            Err(Stop::Deadline)
        } else {
            Ok(())
        }
    }

    /// Waits until a request that costs at most `dollars` may be sent.
    pub(super) fn enter(&self, dollars: f64) -> Result<Permit, Stop> {
        let mut state = self.state();
        loop {
            self.check(&state)?;
            let now = Instant::now();
            let affordable =
                self.budget.is_none_or(|budget| state.spent + state.reserved + dollars <= budget);
            if !affordable && state.under_way == 0 {
                return Err(Stop::Budget);
            }
            let allowed = (state.window as usize).min(state.ceiling).min(self.most).max(1);
            if affordable && state.under_way < allowed && state.not_before.is_none_or(|until| until <= now) {
                state.under_way += 1;
                state.reserved += dollars;
                return Ok(Permit { begun: now, dollars });
            }
            let wait = state.not_before.map_or(SLICE, |until| until.saturating_duration_since(now));
            let wait = wait.clamp(Duration::from_millis(1), SLICE);
            state =
                self.changed.wait_timeout(state, wait).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// A request has ended; it cost `dollars` and took `tokens`.
    pub(super) fn leave(&self, permit: &Permit, sign: &Sign, dollars: f64, tokens: u64) {
        let mut state = self.state();
        let now = Instant::now();
        state.under_way -= 1;
        state.spent += dollars;
        // With nothing in flight nothing is reserved, whatever the sums' rounding errors.
        state.reserved = if state.under_way == 0 { 0.0 } else { state.reserved - permit.dollars };
        match sign {
            Sign::Good(allowance) => {
                state.window = (state.window + 1.0 / state.window).min(self.most as f64);
                let tokens = tokens as f64;
                state.tokens = if state.tokens == 0.0 { tokens } else { 0.9 * state.tokens + 0.1 * tokens };
                let (room, reset) = allowance.room(state.tokens);
                state.ceiling = (room as usize).max(1);
                if room < 1.0 && reset <= LONGEST_WAIT {
                    state.not_before = state.not_before.max(Some(now + reset));
                }
            }
            Sign::Busy(pause) => {
                if state.halved.is_none_or(|halved| permit.begun > halved) {
                    state.window = (state.window / 2.0).max(1.0);
                    state.halved = Some(now);
                }
                state.not_before = state.not_before.max(Some(now + *pause));
            }
            Sign::Failed => {}
        }
        self.changed.notify_all();
    }

    /// Sleeps for `wait`.
    pub(super) fn sleep(&self, wait: Duration) -> Result<(), Stop> {
        let until = Instant::now() + wait;
        loop {
            self.check(&self.state())?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Reserves `dollars` for a batch, if the budget allows it.
    pub(super) fn reserve(&self, dollars: f64) -> bool {
        let mut state = self.state();
        let affordable = self.budget.is_none_or(|budget| state.spent + state.reserved + dollars <= budget);
        if affordable {
            state.reserved += dollars;
        }
        affordable
    }

    /// Reserves `dollars` for batches that an earlier process submitted.
    pub(super) fn hold(&self, dollars: f64) {
        self.state().reserved += dollars;
    }

    /// Releases a reservation; `spent` is the new total in dollars.
    pub(super) fn settle(&self, reserved: f64, spent: f64) {
        let mut state = self.state();
        state.reserved = (state.reserved - reserved).max(0.0);
        state.spent = spent;
    }
}

/// Rate limits from a server's headers: for requests and for tokens, what remains, and when the limit resets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowance([Option<(f64, Duration)>; 2]);

impl Allowance {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        Self(["requests", "tokens"].map(|limit| {
            let remaining: f64 = header(headers, &format!("x-ratelimit-remaining-{limit}"))?.parse().ok()?;
            let reset = header(headers, &format!("x-ratelimit-reset-{limit}")).and_then(duration)?;
            remaining.is_finite().then_some((remaining, reset))
        }))
    }

    /// How many requests of `tokens` tokens the limits allow now, and when they reset.
    fn room(self, tokens: f64) -> (f64, Duration) {
        let rooms = self.0.into_iter().zip([1.0, tokens.max(1.0)]);
        let rooms =
            rooms.filter_map(|(limit, unit)| limit.map(|(remaining, reset)| (remaining / unit, reset)));
        rooms.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, Duration::ZERO))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// The wait that a server's headers ask for.
pub(super) fn asked_wait(headers: &HeaderMap) -> Option<Duration> {
    if let Some(milliseconds) = header(headers, "retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
    }
    if let Some(wait) = header(headers, "retry-after").and_then(duration) {
        return Some(wait);
    }
    let reset = |limit: &str| {
        let exhausted = header(headers, &format!("x-ratelimit-remaining-{limit}")) == Some("0");
        Some((exhausted, header(headers, &format!("x-ratelimit-reset-{limit}")).and_then(duration)?))
    };
    let resets: Vec<(bool, Duration)> = ["requests", "tokens"].into_iter().filter_map(reset).collect();
    // An exhausted limit decides; if none is marked as exhausted, the one that resets first.
    let used_up = resets.iter().filter(|(exhausted, _)| *exhausted).map(|(_, wait)| *wait).max();
    used_up.or_else(|| resets.iter().map(|(_, wait)| *wait).min())
}

/// Reads a duration as `OpenAI` writes it ("6m0s", "20ms", "1.5s"), or plain seconds ("20").
fn duration(text: &str) -> Option<Duration> {
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
mod tests;
