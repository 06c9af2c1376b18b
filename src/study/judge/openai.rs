//! A judge behind `OpenAI`'s chat completions interface: `OpenAI` itself, or any server that speaks it with
//! log-probabilities. One token is asked for, with the 20 most probable alternatives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Task;
use super::aggregate::{Distribution, normal_form};
use super::pace::{Backoff, Gate, duration};
use crate::{Error, Result};

/// A server and how to ask it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenAi {
    /// The model asked for.
    pub model: String,
    /// The address of the interface, without `/chat/completions`.
    pub url: String,
    /// The environment variable that holds the key; servers other than `OpenAI` may need none.
    pub key_variable: String,
    /// Alternatives asked for; `OpenAI` gives at most 20.
    pub top_logprobs: usize,
    /// Sent with each request.
    pub seed: u64,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Longest wait for one answer.
    pub timeout_seconds: f64,
    /// How often a failed request is made again before the run stops.
    pub retries: usize,
}

impl Default for OpenAi {
    fn default() -> Self {
        Self {
            model: "gpt-4o-2024-08-06".into(),
            url: "https://api.openai.com/v1".into(),
            key_variable: "OPENAI_API_KEY".into(),
            top_logprobs: 20,
            seed: 0,
            concurrency: 16,
            timeout_seconds: 60.0,
            retries: 8,
        }
    }
}

/// A longer wait than this is not waited for: the run stops, and can be taken up later.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// An answer without log-probabilities may be a server's hiccup, but more often is all that it will ever give.
const RETRIES_WITHOUT_LOGPROBS: usize = 2;
const NO_LOGPROBS: &str = "the answer has no log-probabilities; the judge must be a server and a model that give \
                           logprobs with top_logprobs";

/// Why a request brought nothing.
#[derive(Debug)]
enum Failure {
    /// Another attempt may help.
    Again {
        what: String,
        /// What the server asked for.
        wait: Option<Duration>,
        /// Everybody should wait, not only this request.
        everybody: bool,
    },
    /// An answer without log-probabilities: a few more attempts may help.
    NoLogprobs,
    /// Another attempt will not help.
    Never(String),
}

impl Failure {
    fn again(what: impl Into<String>) -> Self {
        Self::Again { what: what.into(), wait: None, everybody: false }
    }
}

/// A server that can be asked.
pub struct Client {
    settings: OpenAi,
    agent: ureq::Agent,
    /// Never shown, logged or stored.
    key: Option<String>,
    backoff: Backoff,
}

impl Client {
    /// Takes the key from the environment.
    ///
    /// # Errors
    /// `Error::Setting` if `OpenAI` is to be asked and its key's variable is not set, or a setting cannot work.
    pub fn new(settings: &OpenAi) -> Result<Self> {
        let variable = &settings.key_variable;
        let key = std::env::var(variable).ok().filter(|key| !key.trim().is_empty());
        if key.is_none() && settings.url.contains("api.openai.com") {
            let what =
                format!("judge {}: set the environment variable {variable} to your key", settings.model);
            return Err(Error::Setting(what));
        }
        if settings.concurrency == 0 || !(1..=20).contains(&settings.top_logprobs) {
            let what = "judge.openai: concurrency must be at least 1 and top_logprobs between 1 and 20";
            return Err(Error::Setting(what.into()));
        }
        let timeout = Duration::try_from_secs_f64(settings.timeout_seconds).ok().filter(|t| !t.is_zero());
        let timeout =
            timeout.ok_or_else(|| Error::Setting("judge.openai: timeout_seconds must be above 0".into()))?;
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_idle_connections_per_host(settings.concurrency)
            .user_agent(concat!("emlab/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            settings: settings.clone(),
            agent: config.build().into(),
            key: key.map(|key| key.trim().to_string()),
            backoff: Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(60) },
        })
    }

    /// Asks every task's question, several at once, and hands on what came back in the order in which it came: the
    /// task's index and the distribution. On an error the requests under way are still waited for and handed on.
    ///
    /// # Errors
    /// `Error::Network` if the server refuses, or goes on failing; whatever `done` returns.
    pub fn judge(
        &self,
        tasks: &[Task],
        done: &mut dyn FnMut(Vec<(usize, Distribution)>) -> Result<()>,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let gate = Gate::default();
        let (send, receive) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.settings.concurrency.min(tasks.len()) {
                let (send, next, gate) = (send.clone(), &next, &gate);
                scope.spawn(move || self.work(tasks, next, gate, &send));
            }
            drop(send);
            let mut outcome = Ok(());
            while let Ok(first) = receive.recv() {
                // Whatever has come meanwhile shares one fsync.
                let mut batch = Vec::new();
                for (index, answer) in std::iter::once(first).chain(receive.try_iter()) {
                    match answer {
                        Ok(distribution) => batch.push((index, distribution)),
                        Err(error) if outcome.is_ok() => outcome = Err(error),
                        Err(_) => {}
                    }
                }
                if let Err(error) = done(batch) {
                    outcome = outcome.and(Err(error));
                }
                if outcome.is_err() {
                    gate.stop();
                }
            }
            outcome
        })
    }

    /// One worker: takes task after task until there are none, or until all is over.
    fn work(
        &self,
        tasks: &[Task],
        next: &AtomicUsize,
        gate: &Gate,
        send: &mpsc::Sender<(usize, Result<Distribution>)>,
    ) {
        while gate.pass() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(task) = tasks.get(index) else { return };
            let Some(answer) = self.ask_until_answered(index, task, gate) else { return };
            if answer.is_err() {
                gate.stop();
            }
            if send.send((index, answer)).is_err() {
                return;
            }
        }
    }

    /// Asks once and, as far as it may help, again; none if all is over.
    fn ask_until_answered(&self, index: usize, task: &Task, gate: &Gate) -> Option<Result<Distribution>> {
        let (mut attempt, mut without_logprobs) = (0, 0);
        while gate.pass() {
            let (what, wait, everybody) = match self.ask(&task.prompt()) {
                Ok(distribution) => return Some(Ok(distribution)),
                Err(Failure::Never(what)) => return Some(Err(self.error(what))),
                Err(Failure::NoLogprobs) => {
                    without_logprobs += 1;
                    (NO_LOGPROBS.to_string(), None, false)
                }
                Err(Failure::Again { what, wait, everybody }) => (what, wait, everybody),
            };
            if attempt >= self.settings.retries || without_logprobs > RETRIES_WITHOUT_LOGPROBS {
                return Some(Err(self.error(format!("{what} (after {} attempts)", attempt + 1))));
            }
            if let Some(wait) = wait.filter(|&wait| wait > LONGEST_WAIT) {
                let what = format!(
                    "{what}; it asks to wait {} minutes: run again then",
                    wait.as_secs().div_ceil(60)
                );
                return Some(Err(self.error(what)));
            }
            let pause = match wait {
                Some(wait) => wait + self.backoff.spread(index, attempt),
                None => self.backoff.wait(index, attempt),
            };
            if everybody {
                gate.close_for(pause);
            }
            if !gate.sleep(pause) {
                return None;
            }
            attempt += 1;
        }
        None
    }

    fn error(&self, what: impl Into<String>) -> Error {
        Error::Network { url: self.settings.url.clone(), what: what.into() }
    }

    /// A server may repeat the key in its complaint.
    fn hide_key(&self, text: String) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "[key]"),
            None => text,
        }
    }

    /// One request.
    fn ask(&self, prompt: &str) -> std::result::Result<Distribution, Failure> {
        let body = json!({
            "model": self.settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": true,
            "top_logprobs": self.settings.top_logprobs,
            "seed": self.settings.seed,
        });
        let mut request =
            self.agent.post(format!("{}/chat/completions", self.settings.url.trim_end_matches('/')));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send_json(&body).map_err(|error| self.transport(&error))?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().map_err(|error| self.transport(&error))?;
        let text = self.hide_key(text);
        if status == 200 { parse(&text) } else { Err(self.refusal(status, response.headers(), &text)) }
    }

    fn transport(&self, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::Timeout(_) => {
                Failure::again(format!("no answer within {} seconds", self.settings.timeout_seconds))
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::HostNotFound => {
                Failure::Never(format!("{error}; check the judge's url"))
            }
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Failure::again("nobody listens there; start the server or check the judge's url")
            }
            error => Failure::again(error.to_string()),
        }
    }

    /// What a status other than 200 means.
    fn refusal(&self, status: u16, headers: &ureq::http::HeaderMap, body: &str) -> Failure {
        let error = serde_json::from_str::<Value>(body)
            .ok()
            .and_then(|mut body| body.get_mut("error").map(Value::take));
        let code = error.as_ref().and_then(|error| error["code"].as_str());
        let message = error.as_ref().and_then(|error| error["message"].as_str().or(error.as_str()));
        let said = excerpt(message.unwrap_or(body));
        let what = if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") };
        match status {
            401 | 403 => {
                let variable = &self.settings.key_variable;
                let state = if self.key.is_some() { "is set, but refused" } else { "is not set" };
                Failure::Never(format!("{what}; the key's environment variable {variable} {state}"))
            }
            429 if code == Some("insufficient_quota") => {
                Failure::Never(format!("{what}; the account's credit is used up: add to it and run again"))
            }
            429 => Failure::Again { what, wait: asked_wait(headers), everybody: true },
            408 | 409 | 425 | 500..=599 => {
                Failure::Again { what, wait: asked_wait(headers), everybody: false }
            }
            _ => Failure::Never(format!("{what}; check the judge's url and model")),
        }
    }
}

/// The wait that a server's headers ask for.
fn asked_wait(headers: &ureq::http::HeaderMap) -> Option<Duration> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(milliseconds) = header("retry-after-ms").and_then(|text| text.trim().parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
    }
    if let Some(wait) = header("retry-after").and_then(duration) {
        return Some(wait);
    }
    let reset = |limit: &str| {
        let exhausted = header(&format!("x-ratelimit-remaining-{limit}")) == Some("0");
        Some((exhausted, header(&format!("x-ratelimit-reset-{limit}")).and_then(duration)?))
    };
    let resets: Vec<(bool, Duration)> = ["requests", "tokens"].into_iter().filter_map(reset).collect();
    // The limit that is used up decides; if none says so, the one that is free again first.
    let used_up = resets.iter().filter(|(exhausted, _)| *exhausted).map(|(_, wait)| *wait).max();
    used_up.or_else(|| resets.iter().map(|(_, wait)| *wait).min())
}

/// Reads a chat completion: the alternatives of its first token.
fn parse(text: &str) -> std::result::Result<Distribution, Failure> {
    let garbage = || Failure::again(format!("HTTP 200, but no chat completion: {:?}", excerpt(text)));
    let body: Value = serde_json::from_str(text).map_err(|_| garbage())?;
    let choice = body["choices"].get(0).ok_or_else(garbage)?;
    if choice["finish_reason"] == "content_filter" {
        // The server would not rate this answer: nothing was said, which counts as "other".
        return Ok(Vec::new());
    }
    let Some(top) = choice["logprobs"]["content"][0]["top_logprobs"].as_array().filter(|top| !top.is_empty())
    else {
        return Err(Failure::NoLogprobs);
    };
    let pairs = top.iter().map(|entry| {
        let token = entry["token"].as_str()?;
        // −9999 stands for "very unlikely": e^−9999 is 0. Above 0 by more than rounding, it is no log-probability.
        let logprob = entry["logprob"].as_f64().filter(|&logprob| logprob < 1e-3)?;
        Some((token.to_string(), logprob.exp()))
    });
    pairs.collect::<Option<Vec<_>>>().map(normal_form).ok_or_else(garbage)
}

/// The beginning of a server's text, on one line.
fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
