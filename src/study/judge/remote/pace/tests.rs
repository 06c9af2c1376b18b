//! Rate limits, waits and budgets, without a server.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, value.parse().unwrap());
    }
    headers
}

#[test]
fn waits_that_servers_ask_for() {
    let wait =
        |pairs: &[(&'static str, &'static str)]| asked_wait(&headers(pairs)).map(|wait| wait.as_millis());
    assert_eq!(wait(&[]), None);
    assert_eq!(wait(&[("retry-after", "2"), ("x-ratelimit-reset-tokens", "6m0s")]), Some(2000));
    assert_eq!(wait(&[("retry-after-ms", "15")]), Some(15));
    assert_eq!(
        wait(&[("x-ratelimit-reset-tokens", "6m0s"), ("x-ratelimit-reset-requests", "20ms")]),
        Some(20)
    );
    assert_eq!(
        wait(&[
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "1.5s"),
            ("x-ratelimit-reset-requests", "20ms")
        ]),
        Some(1500)
    );
    assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), None);
}

#[test]
fn durations() {
    for (text, seconds) in [("6m0s", 360.0), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("7", 7.0), (" 0.5 ", 0.5)]
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
        let wait = backoff.wait(3, attempt, None).as_secs_f64();
        assert!(wait > full / 2.0 && wait < full, "{attempt}: {wait}");
    }
    let wait = backoff.wait(3, 5, Some(Duration::from_secs(7))).as_secs_f64();
    assert!((7.0..8.0).contains(&wait));
}

fn pace(most: usize, budget: Option<f64>) -> Pace {
    Pace::new(most, None, budget, 0.0)
}

/// As many permits as there are without waiting.
fn permits(pace: &Pace) -> Vec<Permit> {
    let mut permits = Vec::new();
    loop {
        let state = pace.state();
        let allowed = (state.window as usize).min(state.ceiling).min(pace.most);
        if state.under_way >= allowed.max(1) {
            return permits;
        }
        drop(state);
        permits.push(pace.enter(0.0).unwrap());
    }
}

#[test]
fn as_many_under_way_as_the_server_answers_well() {
    let pace = pace(8, None);
    let good = || Sign::Good(Allowance::default());
    let mut counts = Vec::new();
    for _ in 0..8 {
        let round = permits(&pace);
        counts.push(round.len());
        for permit in &round {
            pace.leave(permit, &good(), 0.0, 10);
        }
    }
    assert_eq!(counts[0], 4);
    assert!(counts.windows(2).all(|two| two[0] <= two[1] && two[1] <= two[0] + 1), "{counts:?}");
    assert_eq!(counts[7], 8, "never above what the plan allows");
    // A round that meets 429 halves it once, however many of its requests do.
    let round = permits(&pace);
    for permit in &round {
        pace.leave(permit, &Sign::Busy(Duration::ZERO), 0.0, 0);
    }
    assert_eq!(permits(&pace).len(), 4);
}

#[test]
fn headers_steer_before_it_comes_to_429() {
    let allowance = |pairs: &[_]| Sign::Good(Allowance::read(&headers(pairs)));
    let room = |sign: &Sign| {
        let pace = pace(16, None);
        let permit = pace.enter(0.0).unwrap();
        pace.leave(&permit, sign, 0.0, 500);
        let ceiling = pace.state().ceiling;
        let wait = pace.state().not_before.map(|until| until.saturating_duration_since(Instant::now()));
        (ceiling, wait.map(|wait| wait.as_secs_f64().ceil()))
    };
    let left = ("x-ratelimit-remaining-requests", "3");
    assert_eq!(room(&allowance(&[left, ("x-ratelimit-reset-requests", "20ms")])), (3, None));
    let tokens = ("x-ratelimit-remaining-tokens", "1200");
    let reset = ("x-ratelimit-reset-tokens", "6m0s");
    assert_eq!(room(&allowance(&[left, ("x-ratelimit-reset-requests", "1s"), tokens, reset])), (2, None));
    let tokens = ("x-ratelimit-remaining-tokens", "100");
    assert_eq!(room(&allowance(&[tokens, reset])), (1, Some(360.0)), "not enough for one: everybody waits");
    for absent in [vec![], vec![left], vec![("x-ratelimit-remaining-requests", "many"), reset]] {
        assert_eq!(room(&allowance(&absent)), (usize::MAX, None));
    }
}

#[test]
fn what_is_under_way_counts_against_the_budget() {
    let pace = pace(8, Some(1.0));
    let first = pace.enter(0.6).unwrap();
    let entered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Waits until the first is settled: it may have cost less than it could.
            let second = pace.enter(0.6).unwrap();
            entered.store(1, Ordering::Relaxed);
            pace.leave(&second, &Sign::Failed, 0.5, 0);
        });
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(entered.load(Ordering::Relaxed), 0);
        pace.leave(&first, &Sign::Failed, 0.4, 0);
    });
    assert_eq!(pace.enter(0.2).err(), Some(Stop::Budget));
    assert!(!pace.reserve(0.2) && pace.reserve(0.05));
}

#[test]
fn nobody_waits_when_all_is_over() {
    let pace = pace(1, None);
    let permit = pace.enter(0.0).unwrap();
    pace.leave(&permit, &Sign::Busy(Duration::from_secs(3600)), 0.0, 0);
    pace.stop();
    assert_eq!(pace.enter(0.0).err(), Some(Stop::Over));
    assert_eq!(pace.sleep(Duration::from_secs(3600)), Err(Stop::Over));
    let late = Pace::new(1, Some(Duration::ZERO), None, 0.0);
    let permit = late.enter(0.0).unwrap();
    late.leave(&permit, &Sign::Failed, 0.0, 0);
    late.start();
    assert_eq!(late.enter(0.0).err(), Some(Stop::Deadline), "the time runs from the beginning of the work");
}
