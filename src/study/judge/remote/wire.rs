//! One request to a server with `OpenAI`'s interface, and what its answer means.

use std::time::Duration;

use serde_json::Value;
use ureq::http::HeaderMap;

use super::pace::{Allowance, asked_wait};
use crate::study::plan::judges::OpenAi;
use crate::{Error, Result};

/// Why a request failed.
#[derive(Debug)]
pub(super) enum RequestFailure {
    /// A retry may help.
    Again {
        what: String,
        /// The wait that the server asked for.
        wait: Option<Duration>,
        /// The server is overloaded: all requests should slow down, not only this one.
        busy: bool,
    },
    /// The answer has no log-probabilities: a few retries may help.
    NoLogprobs,
    /// A retry will not help.
    Never(String),
}

impl RequestFailure {
    pub(super) fn again(what: impl Into<String>) -> Self {
        Self::Again { what: what.into(), wait: None, busy: false }
    }

    /// The message for the user.
    pub(super) fn what(self) -> String {
        match self {
            Self::Again { what, .. } | Self::Never(what) => what,
            Self::NoLogprobs => {
                "the answer has no log-probabilities; the judge must be a server and a model that \
                                 give logprobs with top_logprobs"
                    .into()
            }
        }
    }
}

/// A response with status 200.
pub(super) struct Response {
    pub(super) text: String,
    /// What it says about its rate limits.
    pub(super) allowance: Allowance,
}

/// A response, or why there is none.
pub(super) type WireResult<T> = std::result::Result<T, RequestFailure>;

/// A server that can be asked.
pub(super) struct Wire {
    agent: ureq::Agent,
    url: String,
    key_variable: String,
    /// Never shown, logged or stored.
    key: Option<String>,
    timeout: Duration,
}

/// Timeout for the transfer of a batch's file (200 MB).
const FILE_TIMEOUT: Duration = Duration::from_secs(1800);
/// Maximum size of a response in bytes.
const LARGEST_ANSWER: u64 = 1 << 30;

impl Wire {
    /// Uses `key`, or else the key in the environment.
    ///
    /// # Errors
    /// `Error::Setting` if `OpenAI` is to be asked and its key's variable is not set, or the timeout is invalid.
    pub(super) fn new(settings: &OpenAi, key: Option<String>) -> Result<Self> {
        let variable = &settings.key_variable;
        let key = key.or_else(|| std::env::var(variable).ok()).filter(|key| !key.trim().is_empty());
        if key.is_none() && settings.is_openai() {
            let what =
                format!("judge {}: set the environment variable {variable} to your key", settings.model);
            return Err(Error::Setting(what));
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
            agent: config.build().into(),
            url: settings.url.trim_end_matches('/').to_string(),
            key_variable: variable.clone(),
            key: key.map(|key| key.trim().to_string()),
            timeout,
        })
    }

    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::Network { url: self.url.clone(), what: what.into() }
    }

    /// Posts a JSON document.
    pub(super) fn post(&self, path: &str, body: &Value) -> WireResult<Response> {
        self.read(self.authorised(self.agent.post(self.at(path))).send_json(body))
    }

    /// Gets a document; `large` if it may be a batch's results.
    pub(super) fn get(&self, path: &str, large: bool) -> WireResult<Response> {
        let timeout = if large { FILE_TIMEOUT } else { self.timeout };
        let request = self.agent.get(self.at(path)).config().timeout_global(Some(timeout)).build();
        self.read(self.authorised(request).call())
    }

    /// Uploads a file as a form's field "file", with "purpose" = "batch".
    pub(super) fn upload(&self, path: &str, name: &str, bytes: &[u8]) -> WireResult<Response> {
        // The file is our own JSON Lines, in which no line can begin like this.
        let boundary = "----emlab-boundary-5f1d1c3a9b";
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--{boundary}\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/jsonl\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(bytes);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let request = self.agent.post(self.at(path)).config().timeout_global(Some(FILE_TIMEOUT)).build();
        let request = request.header("Content-Type", format!("multipart/form-data; boundary={boundary}"));
        self.read(self.authorised(request).send(&body[..]))
    }

    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn read(
        &self,
        response: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> WireResult<Response> {
        let mut response = response.map_err(|error| self.transport(&error))?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(LARGEST_ANSWER).read_to_string();
        let mut text = text.map_err(|error| self.transport(&error))?;
        // A server may repeat the key in its error message.
        if let Some(key) = self.key.as_deref().filter(|key| text.contains(key)) {
            text = text.replace(key, "[key]");
        }
        if status == 200 {
            Ok(Response { text, allowance: Allowance::read(response.headers()) })
        } else {
            Err(self.refusal(status, Some(response.headers()), &text))
        }
    }

    fn transport(&self, error: &ureq::Error) -> RequestFailure {
        match error {
            ureq::Error::Timeout(_) => RequestFailure::Again {
                what: format!("no answer within {} seconds", self.timeout.as_secs_f64()),
                wait: None,
                busy: true,
            },
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::HostNotFound => {
                RequestFailure::Never(format!("{error}; check the judge's url"))
            }
            ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                RequestFailure::again("nobody listens there; start the server or check the judge's url")
            }
            error => RequestFailure::again(error.to_string()),
        }
    }

    /// What a status other than 200 means.
    pub(super) fn refusal(&self, status: u16, headers: Option<&HeaderMap>, body: &str) -> RequestFailure {
        let error = serde_json::from_str::<Value>(body)
            .ok()
            .and_then(|mut body| body.get_mut("error").map(Value::take));
        let code = error.as_ref().and_then(|error| error["code"].as_str());
        let message = error.as_ref().and_then(|error| error["message"].as_str().or(error.as_str()));
        let said = excerpt(message.unwrap_or(body));
        let what = if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") };
        let wait = headers.and_then(asked_wait);
        match status {
            401 | 403 => {
                let variable = &self.key_variable;
                let state = if self.key.is_some() { "is set, but refused" } else { "is not set" };
                RequestFailure::Never(format!("{what}; the key's environment variable {variable} {state}"))
            }
            429 if code == Some("insufficient_quota") => RequestFailure::Never(format!(
                "{what}; the account's credit is used up: add to it and run again"
            )),
            429 | 503 | 529 => RequestFailure::Again { what, wait, busy: true },
            408 | 409 | 425 | 500..=599 => RequestFailure::Again { what, wait, busy: false },
            _ => RequestFailure::Never(format!("{what}; {}", remedy(&said))),
        }
    }
}

/// A hint for a refused request, from the server's reason.
fn remedy(said: &str) -> &'static str {
    if said.contains("logprobs") {
        "lower top_logprobs, or choose a server that gives as many"
    } else if said.contains("context") {
        "start the server with a longer context"
    } else {
        "check the judge's url and model"
    }
}

/// The beginning of a server's text, on one line and without control characters.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
