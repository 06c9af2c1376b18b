//! The client against a server on 127.0.0.1 that misbehaves on command.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::super::Judgement;
use super::*;

/// What the server does with request number `n` (from 0), whose body is given.
type Script = dyn Fn(usize, &Value) -> Reply + Send + Sync;

enum Reply {
    /// Status, extra headers, body.
    Http(u16, &'static str, String),
    /// Says nothing for so long.
    Hang(Duration),
}

struct Server {
    url: String,
    /// Head and body of every request.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    fn start(script: impl Fn(usize, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (shared, script): (_, Arc<Script>) = (Arc::clone(&seen), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (Arc::clone(&shared), Arc::clone(&script));
                std::thread::spawn(move || serve(stream, &seen, &*script));
            }
        });
        Self { url, seen }
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<(String, Value)>>, script: &Script) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).ok()?;
        let n = {
            let mut seen = seen.lock().unwrap();
            seen.push((head, body.clone()));
            seen.len() - 1
        };
        match script(n, &body) {
            Reply::Http(status, headers, text) => {
                let length = text.len();
                write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{text}")
                    .ok()?;
            }
            Reply::Hang(time) => std::thread::sleep(time),
        }
    }
}

fn completion(top: &[(&str, f64)]) -> String {
    let top: Vec<Value> =
        top.iter().map(|(token, p)| json!({"token": token, "logprob": p, "bytes": null})).collect();
    json!({"choices": [{"finish_reason": "length", "message": {"role": "assistant", "content": "x"},
        "logprobs": {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": top}]}}]})
    .to_string()
}

/// An answer that gives the number in the prompt.
fn good(body: &Value) -> Reply {
    let number = body["messages"][0]["content"].as_str().unwrap().trim_start_matches("rate ");
    Reply::Http(200, "", completion(&[(number, -0.1), ("I", -9999.0)]))
}

fn client(server: &Server, change: impl FnOnce(&mut OpenAi)) -> Client {
    let mut settings = OpenAi {
        url: server.url.clone(),
        key_variable: "EMLAB_TEST_NO_SUCH_VARIABLE".into(),
        concurrency: 4,
        retries: 3,
        timeout_seconds: 5.0,
        ..OpenAi::default()
    };
    change(&mut settings);
    let mut client = Client::new(&settings).unwrap();
    client.backoff = Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(40) };
    client
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

/// Judges and gives the indices that came back, in order, and how it ended.
fn judge(client: &Client, tasks: &[Task]) -> (Vec<usize>, Result<()>) {
    let mut came = Vec::new();
    let outcome = client.judge(tasks, &mut |batch| {
        for (index, distribution) in batch {
            let score = Judgement::new(&tasks[index], distribution).score.unwrap();
            assert!((score - (index % 101) as f64).abs() < 1e-9);
            came.push(index);
        }
        Ok(())
    });
    came.sort_unstable();
    (came, outcome)
}

fn fails_with(server: &Server, change: impl FnOnce(&mut OpenAi)) -> String {
    let (came, outcome) = judge(&client(server, change), &tasks(3));
    assert!(came.is_empty());
    let message = outcome.unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn asks_as_the_protocol_says() {
    let server = Server::start(|_, body| good(body));
    let (came, outcome) = judge(&client(&server, |_| ()), &tasks(50));
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
    let server = Server::start(move |_, body| {
        let mut attempts = attempts.lock().unwrap();
        let attempt: &mut usize = attempts.entry(body["messages"].to_string()).or_default();
        *attempt += 1;
        match *attempt {
            1 => Reply::Http(429, "retry-after: 0.02\r\n", "{\"error\":{\"message\":\"slow down\"}}".into()),
            2 => Reply::Http(500, "", "oops".into()),
            3 => Reply::Http(200, "", "{\"choices\": [{\"logpr".into()),
            4 => Reply::Http(200, "", json!({"choices": [{"logprobs": null}]}).to_string()),
            5 => Reply::Http(429, "x-ratelimit-reset-requests: 20ms\r\n", String::new()),
            _ => good(body),
        }
    });
    let (came, outcome) = judge(&client(&server, |settings| settings.retries = 5), &tasks(20));
    outcome.unwrap();
    assert!(came.into_iter().eq(0..20));
    assert_eq!(server.requests(), 20 * 6);
}

#[test]
fn a_hanging_server_is_left_after_the_timeout() {
    let server =
        Server::start(|n, body| if n == 0 { Reply::Hang(Duration::from_secs(20)) } else { good(body) });
    let begun = Instant::now();
    let (came, outcome) = judge(&client(&server, |settings| settings.timeout_seconds = 0.3), &tasks(5));
    outcome.unwrap();
    assert_eq!(came.len(), 5);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let server = Server::start(|_, _| Reply::Hang(Duration::from_secs(20)));
    let message = fails_with(&server, |settings| {
        settings.timeout_seconds = 0.2;
        settings.retries = 1;
    });
    assert!(message.contains("no answer within 0.2 seconds (after 2 attempts)"), "{message}");
}

#[test]
fn a_refused_key_stops_at_once_and_is_never_shown() {
    let server = Server::start(|_, _| {
        let text = "{\"error\":{\"message\":\"Incorrect API key provided: sk-secret.\",\"code\":\"invalid_api_key\"}}";
        Reply::Http(401, "", text.into())
    });
    // The variable is this test's own: no other test reads it.
    let mut client = client(&server, |_| ());
    client.key = Some("sk-secret".into());
    let message = client.judge(&tasks(3), &mut |_| Ok(())).unwrap_err().to_string();
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
    let server = Server::start(|_, _| Reply::Http(404, "", "no such\nmodel".into()));
    let message = fails_with(&server, |_| ());
    assert!(message.contains("HTTP 404: no such model; check the judge's url and model"), "{message}");
    let server = Server::start(|_, _| {
        Reply::Http(
            429,
            "",
            "{\"error\":{\"code\":\"insufficient_quota\",\"message\":\"You exceeded\"}}".into(),
        )
    });
    assert!(fails_with(&server, |_| ()).contains("credit is used up"));
    let server = Server::start(|_, _| Reply::Http(429, "retry-after: 86400\r\n", String::new()));
    assert!(fails_with(&server, |_| ()).contains("asks to wait 1440 minutes"));
}

#[test]
fn garbage_and_missing_logprobs_are_named() {
    let server = Server::start(|_, _| Reply::Http(200, "", "<html>Bad gateway</html>".into()));
    assert!(
        fails_with(&server, |_| ())
            .contains("no chat completion: \"<html>Bad gateway</html>\" (after 4 attempts)")
    );
    let server =
        Server::start(|_, _| Reply::Http(200, "", json!({"choices": [{"logprobs": null}]}).to_string()));
    assert!(fails_with(&server, |_| ()).contains("has no log-probabilities"));
    let server = Server::start(|_, _| Reply::Http(200, "", completion(&[("5", 3.0)])));
    assert!(fails_with(&server, |_| ()).contains("no chat completion"));
}

#[test]
fn what_was_judged_before_a_failure_is_handed_on() {
    let server =
        Server::start(|n, body| if n < 30 { good(body) } else { Reply::Http(400, "", "enough".into()) });
    let (came, outcome) = judge(&client(&server, |_| ()), &tasks(100));
    assert!(outcome.unwrap_err().to_string().contains("enough"));
    assert_eq!(came.len(), 30);
}

#[test]
fn nobody_there_and_no_key() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let server = Server { url, seen: Arc::default() };
    assert!(fails_with(&server, |settings| settings.retries = 1).contains("nobody listens there"));
    let settings = OpenAi { key_variable: "EMLAB_TEST_NO_SUCH_VARIABLE".into(), ..OpenAi::default() };
    let error = Client::new(&settings).err().unwrap().to_string();
    assert!(error.contains("set the environment variable EMLAB_TEST_NO_SUCH_VARIABLE"), "{error}");
}

#[test]
fn parsing() {
    let top = parse(&completion(&[("1", -9999.0), ("90", -0.5)])).unwrap();
    assert_eq!(top, [("90".to_string(), (-0.5_f64).exp()), ("1".to_string(), 0.0)]);
    let filtered = json!({"choices": [{"finish_reason": "content_filter", "logprobs": null}]}).to_string();
    assert_eq!(parse(&filtered).unwrap(), []);
}

#[test]
fn waits_that_servers_ask_for() {
    let wait = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = ureq::http::HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        asked_wait(&headers).map(|wait| wait.as_millis())
    };
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
