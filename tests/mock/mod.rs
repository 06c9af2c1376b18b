//! A server for tests that speaks `OpenAI`'s interface and misbehaves on command.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// A request as received.
pub struct Request {
    /// Its number, from 0.
    pub n: usize,
    /// Request line and headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    /// "POST /v1/files", without what follows '?'.
    pub fn what(&self) -> String {
        let line: Vec<&str> = self.head.split(' ').collect();
        format!("{} {}", line[0], line[1].split('?').next().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

pub enum Reply {
    /// Status, extra headers, body.
    Http(u16, &'static str, String),
    /// Stays silent for this long.
    Hang(Duration),
    /// Announces the whole body, and closes the connection half-way.
    Cut(String),
    /// Closes the connection.
    Close,
}

impl Reply {
    pub fn ok(body: &Value) -> Self {
        Self::Http(200, "", body.to_string())
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

pub struct Mock {
    /// The interface's address.
    pub url: String,
    /// Head and body of the first requests; a study has too many to keep all.
    pub seen: Arc<Mutex<Vec<(String, Value)>>>,
    /// Number of requests.
    pub count: Arc<AtomicUsize>,
}

/// Number of requests that are kept.
const SEEN: usize = 1000;

impl Mock {
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (seen, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (shared, counter, script): (_, _, Arc<Script>) =
            (Arc::clone(&seen), Arc::clone(&count), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, count, script) = (Arc::clone(&shared), Arc::clone(&counter), Arc::clone(&script));
                std::thread::spawn(move || serve(stream, &seen, &count, &*script));
            }
        });
        Self { url, seen, count }
    }

    pub fn requests(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<(String, Value)>>,
    count: &AtomicUsize,
    script: &Script,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
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
        let request = Request { n: count.fetch_add(1, Ordering::SeqCst), head, body };
        if request.n < SEEN {
            seen.lock().unwrap().push((request.head.clone(), request.json()));
        }
        match script(&request) {
            Reply::Http(status, headers, text) => {
                let length = text.len();
                let reply = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n{text}");
                stream.write_all(reply.as_bytes()).ok()?;
            }
            Reply::Hang(time) => std::thread::sleep(time),
            Reply::Cut(text) => {
                let half = &text[..text.len() / 2];
                write!(stream, "HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{half}", text.len()).ok()?;
                return None;
            }
            Reply::Close => return None,
        }
    }
}

/// A chat completion with these log-probabilities, which used 1000 + 1 tokens.
pub fn completion(top: &[(&str, f64)]) -> Value {
    let top: Vec<Value> =
        top.iter().map(|(token, p)| json!({"token": token, "logprob": p, "bytes": null})).collect();
    json!({"choices": [{"finish_reason": "length", "message": {"role": "assistant", "content": "x"},
        "logprobs": {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": top}]}}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}})
}

/// A judgement that is certain of the number at the end of the prompt.
pub fn good(request: &Value) -> Value {
    let prompt = request["messages"][0]["content"].as_str().unwrap();
    completion(&[(prompt.rsplit(' ').next().unwrap(), 0.0), ("CODE", -9999.0)])
}

/// How a request of a batch ends.
#[derive(Clone, Copy, PartialEq)]
pub enum RequestOutcome {
    Good,
    /// Status 500 in the error file.
    Error,
    /// It expires before its turn.
    Expired,
    /// In no file.
    Lost,
    /// A torn line in the output.
    Torn,
    NoLogprobs,
}

/// The Batch API. Results come in reversed order; lists come in pages of two, newest first.
#[derive(Default)]
pub struct BatchApi {
    /// Name and content by id.
    pub files: Vec<(String, Vec<u8>)>,
    /// Input file and mark.
    pub batches: Vec<(usize, Value)>,
    /// Number of polls of each batch.
    looks: HashMap<usize, usize>,
    /// How often each request was accepted.
    pub taken: HashMap<String, usize>,
    outputs: HashMap<usize, Value>,
    /// Batches that may be in flight at once.
    pub room: Option<usize>,
    /// Cancel the first batch instead of finishing it.
    pub cancel: bool,
}

impl BatchApi {
    /// Answers a request; `outcome` determines the outcome of each request of a batch from its prompt and how often it was
    /// accepted.
    pub fn answer(&mut self, request: &Request, outcome: &dyn Fn(&str, usize) -> RequestOutcome) -> Reply {
        let line = request.head.split(' ').nth(1).unwrap().to_string();
        let what = request.what();
        let parts: Vec<&str> = what.split('/').collect();
        match parts[..] {
            ["POST ", "v1", "files"] => {
                let body = String::from_utf8(request.body.clone()).unwrap();
                assert!(body.contains("name=\"purpose\"\r\n\r\nbatch\r\n"));
                let name = body.split("filename=\"").nth(1).unwrap().split('"').next().unwrap();
                let content = body.split("filename=").nth(1).unwrap().split("\r\n\r\n").nth(1).unwrap();
                let content = content.rsplit_once("\r\n--").unwrap().0;
                self.files.push((name.into(), content.into()));
                Reply::ok(&self.file(self.files.len() - 1))
            }
            ["GET ", "v1", "files"] => page(&line, (0..self.files.len()).map(|i| self.file(i)).collect()),
            ["GET ", "v1", "files", id, "content"] => {
                let (_, content) = &self.files[number(id)];
                Reply::Http(200, "", String::from_utf8(content.clone()).unwrap())
            }
            ["POST ", "v1", "batches"] => {
                let body = request.json();
                assert_eq!(body["endpoint"], "/v1/chat/completions");
                let file = number(body["input_file_id"].as_str().unwrap());
                self.batches.push((file, body["metadata"].clone()));
                let new = self.batches.len() - 1;
                if self.room.is_some_and(|room| new - self.outputs.len() >= room) {
                    let error = json!({"code": "token_limit_exceeded", "message": "too much"});
                    self.outputs.insert(new, json!({"status": "failed", "errors": {"data": [error]}}));
                    return Reply::ok(&self.batch(new));
                }
                for line in self.lines(file) {
                    *self.taken.entry(line["custom_id"].as_str().unwrap().into()).or_default() += 1;
                }
                Reply::ok(&self.batch(self.batches.len() - 1))
            }
            ["GET ", "v1", "batches"] => {
                page(&line, (0..self.batches.len()).map(|i| self.batch(i)).collect())
            }
            ["GET ", "v1", "batches", id] => {
                let i = number(id);
                *self.looks.entry(i).or_default() += 1;
                if self.looks[&i] == 2 {
                    self.finish(i, outcome);
                }
                Reply::ok(&self.batch(i))
            }
            _ => Reply::Http(404, "", format!("no {what}")),
        }
    }

    fn lines(&self, file: usize) -> Vec<Value> {
        let text = std::str::from_utf8(&self.files[file].1).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn file(&self, i: usize) -> Value {
        json!({"id": format!("file-{i}"), "filename": self.files[i].0, "created_at": 4_000_000_000_u64})
    }

    fn batch(&self, i: usize) -> Value {
        let mut batch = json!({"id": format!("batch_{i}"), "status": "in_progress", "metadata": self.batches[i].1,
            "created_at": 4_000_000_000_u64, "request_counts": {"total": 2, "completed": 1, "failed": 0}});
        if let Some(outputs) = self.outputs.get(&i) {
            batch.as_object_mut().unwrap().extend(outputs.as_object().unwrap().clone());
        }
        batch
    }

    fn finish(&mut self, i: usize, outcome: &dyn Fn(&str, usize) -> RequestOutcome) {
        let (mut output, mut errors, mut expired) = (String::new(), String::new(), false);
        for line in self.lines(self.batches[i].0).into_iter().rev() {
            let id = line["custom_id"].as_str().unwrap();
            assert!(id.len() <= 64);
            let prompt = line["body"]["messages"][0]["content"].as_str().unwrap();
            let answer = |status: u64, body: Value| json!({"id": "r", "custom_id": id, "response": {"status_code": status, "body": body}, "error": null});
            match outcome(prompt, self.taken[id]) {
                RequestOutcome::Good => output += &(answer(200, good(&line["body"])).to_string() + "\n"),
                RequestOutcome::NoLogprobs => {
                    let body = json!({"choices": [{"logprobs": null}]});
                    output += &(answer(200, body).to_string() + "\n");
                }
                RequestOutcome::Torn => {
                    output += &(answer(200, good(&line["body"])).to_string()[..80].to_string() + "\n");
                }
                RequestOutcome::Error => {
                    let body = json!({"error": {"message": "oops, sk-secret"}});
                    errors += &(answer(500, body).to_string() + "\n");
                }
                RequestOutcome::Expired => {
                    expired = true;
                    let error = json!({"code": "batch_expired", "message": "out of time"});
                    errors +=
                        &(json!({"custom_id": id, "response": null, "error": error}).to_string() + "\n");
                }
                RequestOutcome::Lost => {}
            }
        }
        let mut outputs = json!({"status": if expired { "expired" } else { "completed" }});
        for (name, text) in [("output_file_id", output), ("error_file_id", errors)] {
            if !text.is_empty() {
                self.files.push(("results".into(), text.into()));
                outputs[name] = json!(format!("file-{}", self.files.len() - 1));
            }
        }
        if std::mem::take(&mut self.cancel) {
            outputs["status"] = json!("cancelled");
        }
        self.outputs.insert(i, outputs);
    }
}

fn number(id: &str) -> usize {
    id.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

fn page(line: &str, mut objects: Vec<Value>) -> Reply {
    objects.reverse();
    if let Some((_, after)) = line.split_once("after=") {
        let at = objects.iter().position(|object| object["id"] == after).unwrap();
        objects.drain(..=at);
    }
    let more = objects.len() > 2;
    objects.truncate(2);
    Reply::ok(&json!({"data": objects, "has_more": more}))
}
