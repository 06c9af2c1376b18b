//! One request per question, many in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use serde_json::Value;

use super::account::{Usage, dollars, most_dollars};
use super::openai::{parse, request};
use super::pace::{Backoff, LONGEST_WAIT, Pace, Sign, Stop};
use super::wire::{RequestFailure, Wire};
use crate::study::judge::aggregate::Distribution;
use crate::study::plan::judges::OpenAi;
use crate::{Error, Result};

/// An answer without log-probabilities may be a hiccup, but usually the server never gives them.
const RETRIES_WITHOUT_LOGPROBS: usize = 2;

/// Answers that arrived together.
#[derive(Default)]
pub(super) struct Delivery {
    /// What was said, by the question's index.
    pub(super) said: Vec<(usize, Distribution)>,
    /// Answers of the server, including useless ones.
    pub(super) requests: u64,
    /// Tokens that these used.
    pub(super) usage: Usage,
    /// Id of the charge if it may be repeated; see `account.rs`.
    pub(super) charge: Option<String>,
    /// Progress at the server, for display.
    pub(super) note: String,
}

/// How asking one question ended.
struct Outcome {
    index: usize,
    requests: u64,
    usage: Usage,
    /// None if the work was stopped first.
    said: Option<Result<Distribution>>,
}

/// A server and the pace of requests to it.
pub(super) struct Live<'a> {
    pub(super) settings: &'a OpenAi,
    pub(super) wire: &'a Wire,
    pub(super) pace: &'a Pace,
    pub(super) backoff: Backoff,
}

impl Live<'_> {
    /// Asks `n` questions, several at once, and passes answers on as they arrive. After an error, requests in flight are
    /// still awaited and passed on. `prompt` gives a question's text.
    ///
    /// # Errors
    /// `Error::Network` if the server refuses, or goes on failing; `Error::Run` at the budget or the deadline;
    /// whatever `done` returns.
    pub(super) fn ask(
        &self,
        n: usize,
        prompt: &(dyn Fn(usize) -> String + Sync),
        done: &mut dyn FnMut(Delivery) -> Result<()>,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        // No buffer: workers must not send further requests while answers wait to be stored, because a kill would lose them.
        let (send, receive) = mpsc::sync_channel(0);
        std::thread::scope(|scope| {
            for _ in 0..self.settings.concurrency.min(n) {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= n {
                            return;
                        }
                        let asked = self.ask_until_answered(index, &prompt(index));
                        let over = !matches!(asked.said, Some(Ok(_)));
                        if over {
                            self.pace.stop();
                        }
                        if send.send(asked).is_err() || over {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut outcome = Ok(());
            while let Ok(first) = receive.recv() {
                // Everything that has arrived by now shares one fsync.
                let mut delivery = Delivery::default();
                for asked in std::iter::once(first).chain(receive.try_iter()) {
                    delivery.requests += asked.requests;
                    delivery.usage += asked.usage;
                    match asked.said {
                        Some(Ok(distribution)) => delivery.said.push((asked.index, distribution)),
                        Some(Err(error)) if outcome.is_ok() => outcome = Err(error),
                        Some(Err(_)) | None => {}
                    }
                }
                if let Err(error) = done(delivery) {
                    outcome = outcome.and(Err(error));
                }
                if outcome.is_err() {
                    self.pace.stop();
                }
            }
            outcome
        })
    }

    /// Asks, and retries as long as that may help.
    fn ask_until_answered(&self, index: usize, prompt: &str) -> Outcome {
        let mut outcome = Outcome { index, requests: 0, usage: Usage::default(), said: None };
        let request = request(self.settings, prompt);
        let most = self.settings.prices().map_or(0.0, |prices| most_dollars(prices, prompt));
        let (mut attempt, mut without_logprobs) = (0, 0);
        loop {
            let permit = match self.pace.enter(most) {
                Ok(permit) => permit,
                Err(stop) => {
                    outcome.said = stopped(stop, self.settings).map(Err);
                    return outcome;
                }
            };
            let (mut usage, mut sign) = (Usage::default(), Sign::Failed);
            let said = self.wire.post("chat/completions", &request).and_then(|answer| {
                let body = serde_json::from_str(&answer.text).unwrap_or(Value::String(answer.text));
                usage = Usage::read(&body);
                sign = Sign::Good(answer.allowance);
                outcome.requests += 1;
                parse(&body)
            });
            // A useless answer costs money, too.
            outcome.usage += usage;
            let leave = |sign: Sign| {
                let dollars = self.settings.prices().map_or(0.0, |prices| dollars(prices, usage));
                self.pace.leave(&permit, &sign, dollars, usage.input + usage.output);
            };
            let failure = match said {
                Ok(distribution) => {
                    leave(sign);
                    outcome.said = Some(Ok(distribution));
                    return outcome;
                }
                Err(failure) => failure,
            };
            without_logprobs += usize::from(matches!(failure, RequestFailure::NoLogprobs));
            if let Some(remark) = self.hopeless(&failure, attempt, without_logprobs) {
                leave(sign);
                outcome.said = Some(Err(self.wire.error(failure.what() + &remark)));
                return outcome;
            }
            let (asked, busy) = match failure {
                RequestFailure::Again { wait, busy, .. } => (wait, busy),
                RequestFailure::NoLogprobs | RequestFailure::Never(_) => (None, false),
            };
            let pause = self.backoff.wait(index, attempt, asked);
            leave(if busy { Sign::Busy(pause) } else { sign });
            if let Err(stop) = self.pace.sleep(pause) {
                outcome.said = stopped(stop, self.settings).map(Err);
                return outcome;
            }
            attempt += 1;
        }
    }

    /// Why a retry is pointless; none if it is not.
    fn hopeless(&self, failure: &RequestFailure, attempt: usize, without_logprobs: usize) -> Option<String> {
        let wait = match failure {
            RequestFailure::Never(_) => return Some(String::new()),
            RequestFailure::Again { wait, .. } => *wait,
            RequestFailure::NoLogprobs => None,
        };
        if attempt >= self.settings.retries || without_logprobs > RETRIES_WITHOUT_LOGPROBS {
            return Some(format!(" (after {} attempts)", attempt + 1));
        }
        let wait = wait.filter(|&wait| wait > LONGEST_WAIT)?;
        Some(format!("; it asks to wait {} minutes: run again then", wait.as_secs().div_ceil(60)))
    }
}

/// The error for a stop; none if the work ended for another reason.
pub(super) fn stopped(stop: Stop, settings: &OpenAi) -> Option<Error> {
    match stop {
        Stop::Over => None,
        Stop::Interrupted => Some(Error::Interrupted("what was judged is kept".into())),
        Stop::Deadline => {
            let minutes = settings.deadline_minutes.unwrap_or_default();
            let what = format!("deadline_minutes = {minutes} have passed; what was judged is kept");
            Some(Error::Run(format!("judge {}: {what}: run again to go on", settings.model)))
        }
        Stop::Budget => {
            let budget = settings.budget_dollars.unwrap_or_default();
            let what =
                format!("the next request could pass budget_dollars = {budget}; what was judged is kept");
            Some(Error::Run(format!(
                "judge {}: {what}: raise the budget and run again to go on",
                settings.model
            )))
        }
    }
}
