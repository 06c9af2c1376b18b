//! Judging by a server on 127.0.0.1 that misbehaves on command.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use emlab::Result;
use emlab::study::folder::RunFolder;
use emlab::study::judge::remote::account::{self, Charge};
use emlab::study::judge::remote::pace::Backoff;
use emlab::study::judge::remote::{Access, Server};
use emlab::study::judge::{Judgement, Task};
use emlab::study::plan::judges::{Mode, OpenAi};
use serde_json::json;

use crate::mock::{self, BatchApi, Mock, Reply, Request, RequestOutcome, completion};

/// A server that judges, with a run and a cache of its own.
struct Bench {
    dir: tempfile::TempDir,
    settings: OpenAi,
}

fn bench(mock: &Mock, change: impl FnOnce(&mut OpenAi)) -> Bench {
    let mut settings = OpenAi {
        url: mock.url.clone(),
        key_variable: "EMLAB_TEST_NO_SUCH_VARIABLE".into(),
        concurrency: 4,
        retries: 3,
        timeout_seconds: 5.0,
        poll_seconds: 0.01,
        ..OpenAi::default()
    };
    change(&mut settings);
    Bench { dir: tempfile::tempdir().unwrap(), settings }
}

impl Bench {
    fn open(&self) -> Server {
        self.open_with_key(None)
    }

    fn open_with_key(&self, key: Option<&str>) -> Server {
        let access = Access {
            key: key.map(String::from),
            cache: Some(self.dir.path().join("cache")),
            backoff: Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(40) },
        };
        Server::open("j", &self.settings, self.dir.path(), access).unwrap()
    }

    fn charged(&self) -> Charge {
        account::total(&RunFolder::new(self.dir.path()).account("j")).unwrap()
    }

    /// Judges the tasks; returns the sorted indices that were answered, and the result.
    fn judge(&self, tasks: &[Task]) -> (Vec<usize>, Result<()>) {
        judge(&mut self.open(), tasks)
    }
}

fn judge(server: &mut Server, tasks: &[Task]) -> (Vec<usize>, Result<()>) {
    let mut came = Vec::new();
    let outcome = server.judge(tasks, &mut |batch, _| {
        for (index, distribution) in batch {
            let score = Judgement::new(&tasks[index], distribution).score.unwrap();
            assert_eq!(score, (index % 101) as f64);
            came.push(index);
        }
        Ok(())
    });
    came.sort_unstable();
    (came, outcome)
}

fn good(request: &Request) -> Reply {
    Reply::ok(&mock::good(&request.json()))
}

fn tasks(n: usize) -> Vec<Task<'static>> {
    let task = |i: usize| Task {
        cell: "c".into(),
        ledger: 0,
        question: "q",
        sample: i,
        metric: "aligned",
        template: "rate {answer}",
        text: "",
        answer: (i % 101).to_string().into(),
    };
    (0..n).map(task).collect()
}

fn fails_with(server: &Mock, change: impl FnOnce(&mut OpenAi)) -> String {
    let (came, outcome) = bench(server, change).judge(&tasks(3));
    assert!(came.is_empty());
    let message = outcome.unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn asks_as_the_protocol_says() {
    let server = Mock::start(good);
    let (came, outcome) = bench(&server, |_| ()).judge(&tasks(50));
    outcome.unwrap();
    assert!(came.into_iter().eq(0..50));
    let seen = server.seen.lock().unwrap();
    assert!(seen[0].0.starts_with("POST /v1/chat/completions HTTP/1.1"));
    assert!(!seen[0].0.to_ascii_lowercase().contains("authorization"));
    let body = &seen[0].1;
    for (key, value) in [
        ("max_tokens", json!(1)),
        ("temperature", json!(0)),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(20)),
        ("seed", json!(0)),
        ("model", json!("gpt-4o-2024-08-06")),
    ] {
        assert_eq!(body[key], value, "{key}");
    }
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
}

#[test]
fn every_passing_fault_is_outlived_and_nothing_is_asked_twice() {
    let attempts = Mutex::new(std::collections::HashMap::new());
    let server = Mock::start(move |request| {
        let mut attempts = attempts.lock().unwrap();
        let attempt: &mut usize = attempts.entry(request.json()["messages"].to_string()).or_default();
        *attempt += 1;
        match *attempt {
            1 => Reply::Http(429, "retry-after: 0.02\r\n", "{\"error\":{\"message\":\"slow down\"}}".into()),
            2 => Reply::Http(500, "", "oops".into()),
            3 => Reply::Http(200, "", "{\"choices\": [{\"logpr".into()),
            4 => Reply::Http(200, "", json!({"choices": [{"logprobs": null}]}).to_string()),
            5 => Reply::Http(429, "x-ratelimit-reset-requests: 20ms\r\n", String::new()),
            6 => Reply::Cut(completion(&[("7", 0.0)]).to_string()),
            7 => Reply::Close,
            _ => good(request),
        }
    });
    let (came, outcome) = bench(&server, |settings| settings.retries = 7).judge(&tasks(20));
    outcome.unwrap();
    assert!(came.into_iter().eq(0..20));
    assert_eq!(server.requests(), 20 * 8);
}

#[test]
fn a_hanging_server_is_left_after_the_timeout() {
    let server = Mock::start(|r| if r.n == 0 { Reply::Hang(Duration::from_secs(20)) } else { good(r) });
    let begun = Instant::now();
    let (came, outcome) = bench(&server, |settings| settings.timeout_seconds = 0.3).judge(&tasks(5));
    outcome.unwrap();
    assert_eq!(came.len(), 5);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let server = Mock::start(|_| Reply::Hang(Duration::from_secs(20)));
    let message = fails_with(&server, |settings| {
        settings.timeout_seconds = 0.2;
        settings.retries = 1;
    });
    assert!(message.contains("no answer within 0.2 seconds (after 2 attempts)"), "{message}");
}

#[test]
fn a_refused_key_stops_at_once_and_is_never_shown() {
    let server = Mock::start(|_| {
        let text = "{\"error\":{\"message\":\"Incorrect API key provided: sk-secret.\",\"code\":\"invalid_api_key\"}}";
        Reply::Http(401, "", text.into())
    });
    let bench = bench(&server, |_| ());
    let mut judge = bench.open_with_key(Some("sk-secret"));
    let message = judge.judge(&tasks(3), &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(
        message.contains("HTTP 401: Incorrect API key provided: [key].; the key's environment variable"),
        "{message}"
    );
    assert!(!message.contains("sk-secret"));
    assert!(server.seen.lock().unwrap()[0].0.contains("Bearer sk-secret"));
    assert!(server.requests() <= 4, "no attempt is made again");
}

#[test]
fn what_cannot_help_stops_at_once() {
    let server = Mock::start(|_| Reply::Http(404, "", "no such\nmodel".into()));
    let message = fails_with(&server, |_| ());
    assert!(message.contains("HTTP 404: no such model; check the judge's url and model"), "{message}");
    let server = Mock::start(|_| {
        Reply::Http(
            429,
            "",
            "{\"error\":{\"code\":\"insufficient_quota\",\"message\":\"You exceeded\"}}".into(),
        )
    });
    assert!(fails_with(&server, |_| ()).contains("credit is used up"));
    let server = Mock::start(|_| Reply::Http(429, "retry-after: 86400\r\n", String::new()));
    assert!(fails_with(&server, |_| ()).contains("asks to wait 1440 minutes"));
}

#[test]
fn garbage_and_missing_logprobs_are_named() {
    let server = Mock::start(|_| Reply::Http(200, "", "<html>Bad gateway</html>".into()));
    assert!(
        fails_with(&server, |_| ())
            .contains("no chat completion: \"<html>Bad gateway</html>\" (after 4 attempts)")
    );
    let server = Mock::start(|_| Reply::Http(200, "", json!({"choices": [{"logprobs": null}]}).to_string()));
    assert!(fails_with(&server, |_| ()).contains("has no log-probabilities"));
    let server = Mock::start(|_| Reply::Http(200, "", completion(&[("5", 3.0)]).to_string()));
    assert!(fails_with(&server, |_| ()).contains("no chat completion"));
}

/// As llama.cpp's server (2026-10) answers with Gemma 3 270M: fields of its own, numbers digit by digit.
#[test]
fn a_judge_that_writes_digit_by_digit_is_found_out() {
    let server = Mock::start(|_| {
        let top = |(id, token, logprob): (u32, &str, f64)| json!({"id": id, "token": token, "bytes": [1], "logprob": logprob});
        let top =
            [(236_777, "I", -0.3), (236_828, "8", -1.4), (236_770, "1", -4.2), (236_820, "<", -5.0)].map(top);
        Reply::ok(&json!({
            "choices": [{"finish_reason": "length", "index": 0, "message": {"role": "assistant", "content": "I"},
                "logprobs": {"content": [{"id": 236_777, "token": "I", "logprob": -0.3, "top_logprobs": top}]}}],
            "model": "m.gguf", "system_fingerprint": "b0-unknown", "object": "chat.completion",
            "usage": {"completion_tokens": 1, "prompt_tokens": 33, "prompt_tokens_details": {"cached_tokens": 0}},
            "timings": {"prompt_ms": 1269.4, "predicted_ms": 0.001},
        }))
    });
    let bench = bench(&server, |settings| settings.concurrency = 1);
    let mut asked = None;
    for _ in 0..2 {
        let mut judged = 0;
        let outcome = bench.open().judge(&tasks(101), &mut |said, _| {
            judged += said.len();
            Ok(())
        });
        let message = outcome.unwrap_err().to_string();
        assert!(
            message.contains("writes numbers digit by digit") && message.lines().count() == 1,
            "{message}"
        );
        assert!(judged < 20, "{judged}");
        let before = *asked.get_or_insert(server.requests());
        assert!((20..25).contains(&before), "{before}");
        assert_eq!(server.requests(), before, "what is in the cache gives it away, too");
    }
}

/// As llama.cpp's server (2026-10) refuses.
#[test]
fn a_refusal_says_what_may_help() {
    for (said, remedy) in [
        ("request (6024 tokens) exceeds the available context size (4096 tokens)", "a longer context"),
        ("top_logprobs requires logprobs to be set to true", "lower top_logprobs"),
    ] {
        let error = json!({"error": {"code": 400, "message": said, "type": "invalid_request_error"}});
        let server = Mock::start(move |_| Reply::Http(400, "", error.to_string()));
        let message = fails_with(&server, |_| ());
        assert!(message.contains("HTTP 400: ") && message.contains(remedy), "{message}");
    }
}

#[test]
fn what_was_judged_before_a_failure_is_handed_on() {
    let server = Mock::start(|r| if r.n < 30 { good(r) } else { Reply::Http(400, "", "enough".into()) });
    let (came, outcome) = bench(&server, |_| ()).judge(&tasks(100));
    assert!(outcome.unwrap_err().to_string().contains("enough"));
    assert_eq!(came.len(), 30);
}

#[test]
fn nobody_there_and_no_key() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let server = Mock { url, seen: std::sync::Arc::default(), count: std::sync::Arc::default() };
    assert!(fails_with(&server, |settings| settings.retries = 1).contains("nobody listens there"));
    let settings = OpenAi { key_variable: "EMLAB_TEST_NO_SUCH_VARIABLE".into(), ..OpenAi::default() };
    let dir = tempfile::tempdir().unwrap();
    let error = Server::open("j", &settings, dir.path(), Access::default()).err().unwrap().to_string();
    assert!(error.contains("set the environment variable EMLAB_TEST_NO_SUCH_VARIABLE"), "{error}");
}

#[test]
fn the_same_question_is_paid_for_once_in_whatever_run() {
    let server = Mock::start(good);
    let bench = bench(&server, |settings| {
        (settings.input_price, settings.output_price) = (Some(2.0), Some(10.0));
    });
    // 150 tasks of 101 different answers.
    let (came, outcome) = bench.judge(&tasks(150));
    outcome.unwrap();
    assert!(came.into_iter().eq(0..150));
    assert_eq!(server.requests(), 101);
    let charged = bench.charged();
    assert_eq!((charged.requests, charged.input_tokens, charged.output_tokens), (101, 101_000, 101));
    assert!((charged.dollars - 101.0 * (1000.0 * 2.0 + 10.0) / 1e6).abs() < 1e-12);
    let (came, outcome) = bench.judge(&tasks(150));
    outcome.unwrap();
    assert_eq!((came.len(), server.requests(), bench.charged()), (150, 101, charged));
    // Another seed is another question; without the cache everything is.
    let other = Bench { settings: OpenAi { seed: 1, ..bench.settings.clone() }, ..bench };
    other.judge(&tasks(5)).1.unwrap();
    assert_eq!(server.requests(), 106);
    let fresh = Bench { settings: OpenAi { cache: false, ..other.settings.clone() }, ..other };
    fresh.judge(&tasks(5)).1.unwrap();
    assert_eq!(server.requests(), 111);
}

#[test]
fn the_budget_is_never_passed_and_nothing_is_counted_twice() {
    // Each answer costs 0.00201 dollars, and the bound of each is (6 + 16 bytes or more) × 2 / 1e6 + 0.00001.
    let server = Mock::start(good);
    let mut bench = bench(&server, |settings| {
        (settings.input_price, settings.output_price) = (Some(2.0), Some(10.0));
        (settings.budget_dollars, settings.concurrency) = (Some(0.0101), 1);
    });
    let (came, outcome) = bench.judge(&tasks(20));
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("could pass budget_dollars = 0.0101"), "{message}");
    assert_eq!(message.lines().count(), 1);
    // Five cost 0.01005; the next could cost 0.00006 more.
    assert_eq!((came.len(), server.requests()), (5, 5));
    let (came, outcome) = bench.judge(&tasks(20));
    assert!(outcome.is_err());
    assert_eq!((came.len(), server.requests()), (5, 5), "what was paid for comes from the cache");
    bench.settings.budget_dollars = Some(1.0);
    bench.judge(&tasks(20)).1.unwrap();
    assert_eq!((server.requests(), bench.charged().requests), (20, 20));
}

#[test]
fn the_deadline_stops_and_what_came_is_kept() {
    let server = Mock::start(|request| {
        std::thread::sleep(Duration::from_millis(20));
        good(request)
    });
    let bench = bench(&server, |settings| settings.deadline_minutes = Some(0.2 / 60.0));
    let (came, outcome) = bench.judge(&tasks(100));
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("have passed; what was judged is kept: run again"), "{message}");
    assert!(!came.is_empty() && came.len() < 100 && came.len() == server.requests());
}

#[test]
fn fewer_alternatives_in_any_order_are_a_distribution_too() {
    let server = Mock::start(|_| Reply::ok(&completion(&[("CODE", -9999.0), ("40", -2.0), ("60", -0.5)])));
    let bench = bench(&server, |_| ());
    let mut said = Vec::new();
    bench
        .open()
        .judge(&tasks(1), &mut |batch, _| {
            said.extend(batch);
            Ok(())
        })
        .unwrap();
    let tokens: Vec<&str> = said[0].1.iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(tokens, ["60", "40", "CODE"]);
}

fn batches(
    outcome: impl Fn(&str, usize) -> RequestOutcome + Send + Sync + 'static,
) -> (Mock, std::sync::Arc<Mutex<BatchApi>>) {
    let api = std::sync::Arc::new(Mutex::new(BatchApi::default()));
    let shared = std::sync::Arc::clone(&api);
    (Mock::start(move |request| shared.lock().unwrap().answer(request, &outcome)), api)
}

fn batch_settings(settings: &mut OpenAi) {
    (settings.mode, settings.batch_requests) = (Mode::Batch, 40);
    (settings.input_price, settings.output_price) = (Some(2.0), Some(10.0));
}

#[test]
fn batches_bring_everything_at_half_the_price() {
    let (server, api) = batches(|_, _| RequestOutcome::Good);
    let bench = bench(&server, batch_settings);
    let (came, outcome) = bench.judge(&tasks(110));
    outcome.unwrap();
    assert!(came.into_iter().eq(0..110));
    assert_eq!(api.lock().unwrap().batches.len(), 3, "101 different questions, 40 a batch");
    let charged = bench.charged();
    assert_eq!(charged.requests, 101);
    assert!((charged.dollars - 101.0 * (1000.0 + 5.0) / 1e6).abs() < 1e-12);
    let left: Vec<_> = std::fs::read_dir(bench.dir.path().join("batches/j")).unwrap().collect();
    assert_eq!(left.len(), 1, "only the state is left");
    bench.judge(&tasks(110)).1.unwrap();
    assert_eq!(api.lock().unwrap().batches.len(), 3);
}

#[test]
fn what_fails_expires_or_is_lost_in_a_batch_is_asked_again() {
    let outcomes = [
        RequestOutcome::Good,
        RequestOutcome::Error,
        RequestOutcome::Expired,
        RequestOutcome::Lost,
        RequestOutcome::Torn,
        RequestOutcome::NoLogprobs,
    ];
    let (server, api) = batches(move |prompt, time| {
        let number: usize = prompt.rsplit(' ').next().unwrap().parse().unwrap();
        if time == 1 { outcomes[number % outcomes.len()] } else { RequestOutcome::Good }
    });
    let (came, outcome) = bench(&server, batch_settings).judge(&tasks(60));
    outcome.unwrap();
    assert!(came.into_iter().eq(0..60));
    let taken = &api.lock().unwrap().taken;
    assert_eq!(taken.values().sum::<usize>(), 60 + 50);
    // What always fails is named in the end.
    let (server, _) = batches(|_, _| RequestOutcome::Error);
    assert!(fails_with(&server, batch_settings).contains("HTTP 500: oops"));
}

#[test]
fn batches_wait_for_room_at_the_server_and_a_cancelled_one_is_not_begun_again_unasked() {
    let (server, api) = batches(|_, _| RequestOutcome::Good);
    api.lock().unwrap().room = Some(1);
    let (came, outcome) = bench(&server, batch_settings).judge(&tasks(100));
    outcome.unwrap();
    assert_eq!(came.len(), 100);
    assert!(api.lock().unwrap().taken.values().all(|&times| times == 1));
    // Three done; two and then one of them refused before their turn came.
    assert_eq!(api.lock().unwrap().batches.len(), 3 + 2 + 1);
    api.lock().unwrap().room = Some(0);
    assert!(fails_with(&server, batch_settings).contains("no room for a batch of this size"));
    (api.lock().unwrap().room, api.lock().unwrap().cancel) = (None, true);
    let bench = bench(&server, |settings| (settings.mode, settings.cache) = (Mode::Batch, false));
    let (came, outcome) = bench.judge(&tasks(3));
    assert!(outcome.unwrap_err().to_string().contains("was cancelled; what it brought is kept"));
    assert_eq!(came.len(), 3);
}

#[test]
fn a_batch_needs_the_budget_for_its_longest_bill() {
    let (server, api) = batches(|_, _| RequestOutcome::Good);
    let bench = bench(&server, |settings| {
        batch_settings(settings);
        // Ten requests' bounds (22 or 23 bytes each at a dollar a million tokens, and 5e-6), not eleven.
        settings.budget_dollars = Some(280e-6);
    });
    let (came, outcome) = bench.judge(&tasks(20));
    assert!(outcome.unwrap_err().to_string().contains("budget_dollars"));
    assert_eq!((came.len(), api.lock().unwrap().taken.len()), (10, 10));
}

#[test]
fn live_judging_waits_for_no_batch_to_be_paid_twice() {
    let (server, _) = batches(|_, _| RequestOutcome::Good);
    let mut bench = bench(&server, |settings| {
        batch_settings(settings);
        settings.deadline_minutes = Some(1e-9);
    });
    assert!(bench.judge(&tasks(3)).1.unwrap_err().to_string().contains("deadline_minutes"));
    bench.settings.mode = Mode::Live;
    let message = bench.judge(&tasks(3)).1.unwrap_err().to_string();
    assert!(message.contains("1 batches are under way, and would be paid for twice"), "{message}");
}
