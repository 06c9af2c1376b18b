//! Asking a server one question a request, many at once.

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

/// An answer without log-probabilities may be a server's hiccup, but more often is all that it will ever give.
const RETRIES_WITHOUT_LOGPROBS: usize = 2;

/// What came back together.
#[derive(Default)]
pub(super) struct Delivery {
    /// What was said, by the question's index.
    pub(super) said: Vec<(usize, Distribution)>,
    /// Answers of the server, those among them that were of no use too.
    pub(super) requests: u64,
    /// What these took.
    pub(super) usage: Usage,
    /// What the charge is called if it may come again; see `account.rs`.
    pub(super) charge: Option<String>,
    /// How far the work at the server is, for people.
    pub(super) note: String,
}

/// How asking one question ended.
struct Outcome {
    index: usize,
    requests: u64,
    usage: Usage,
    /// None if all was over before.
    said: Option<Result<Distribution>>,
}

/// A server and how fast it is asked.
pub(super) struct Live<'a> {
    pub(super) settings: &'a OpenAi,
    pub(super) wire: &'a Wire,
    pub(super) pace: &'a Pace,
    pub(super) backoff: Backoff,
}

impl Live<'_> {
    /// Asks `n` questions, several at once, and hands on what comes back in the order in which it comes. On an error
    /// the requests under way are still waited for and handed on. `prompt` gives a question's text.
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
        // Without room, so that nobody asks on while answers wait to be stored: a kill would lose them.
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
                // Whatever has come meanwhile shares one fsync.
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

    /// Asks once and, as far as it may help, again.
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
            // An answer of no use has its price, too.
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

    /// Why another attempt makes no sense; none if it does.
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

/// The error that a stop is; none if something else has ended the work.
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
