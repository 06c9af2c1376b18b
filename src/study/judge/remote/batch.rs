//! Judging by batches: files of requests that the server answers within a day.
//!
//! ```text
//! DIR/batches/JUDGE/state.json        the batches in flight
//! DIR/batches/JUDGE/part-0001.jsonl   the requests of one of them
//! ```
//!
//! Each part is written, uploaded, submitted as a batch, polled until it ends, fetched, stored and forgotten; every step is
//! recorded as soon as it is done. A process that dies before it records a step does no harm: files and batches carry a
//! name of our own, by which the next attempt finds them at the server instead of creating them again, and results may
//! be fetched and stored twice, because judgements and charges are stored by key. Requests that failed or expired
//! belong to no part any more, so they go into a new one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde_json::json;

use super::account::most_dollars;
use super::batch_api::{self as api, Standing};
use super::batch_state::{Part, UnderWay};
use super::live::{Delivery, stopped};
use super::openai::request;
use super::pace::{Backoff, Pace, Stop};
use super::query::Query;
use super::wire::{RequestFailure, Wire, WireResult};
use crate::study::plan::judges::OpenAi;
use crate::{Error, Result};

/// Maximum size of a part; `OpenAI` accepts 200 MB.
const MOST_BYTES: usize = 200_000_000;
/// Wait before the second poll of a batch; it grows by half each time.
const FIRST_POLL: Duration = Duration::from_secs(5);

/// The state of a part.
enum PartStep {
    /// It has ended, with these result files; an error if somebody cancelled it.
    Ended(Vec<String>, Result<()>),
    /// Requests done, and requests in total.
    UnderWay(u64, u64),
    /// The server has no capacity for it yet.
    Waiting,
}

/// Passes results on, and returns the total cost so far.
pub(super) type Deliver<'a> = dyn FnMut(Delivery) -> Result<f64> + 'a;

/// The batches of one judge.
pub(super) struct Batches<'a> {
    pub(super) settings: &'a OpenAi,
    pub(super) wire: &'a Wire,
    pub(super) pace: &'a Pace,
    pub(super) backoff: Backoff,
    pub(super) under_way: UnderWay,
    /// Parts for which the server had no capacity; they are submitted again once another part has ended.
    pub(super) waiting: HashSet<usize>,
}

impl Batches<'_> {
    /// Gets every query answered. `prompt` gives a query's text.
    ///
    /// # Errors
    /// `Error::Network` if the server refuses or keeps failing; `Error::Run` at the budget or the deadline, in which case
    /// batches in flight continue at the server and the next attempt fetches them; whatever `deliver` returns.
    pub(super) fn run(
        &mut self,
        queries: &[Query],
        prompt: &dyn Fn(usize) -> String,
        deliver: &mut Deliver,
    ) -> Result<()> {
        let index: HashMap<&str, usize> =
            queries.iter().enumerate().map(|(i, q)| (q.key.as_str(), i)).collect();
        let mut answered = vec![false; queries.len()];
        let mut tries = HashMap::new();
        // What is in flight was within the budget when it was submitted.
        self.pace.hold(self.under_way.parts().iter().map(|part| part.dollars).sum());
        let mut poll = FIRST_POLL;
        loop {
            let exhausted = self.plan(queries, &answered, prompt)?;
            if self.under_way.parts().is_empty() {
                return if exhausted { Err(self.stopped(Stop::Budget)) } else { Ok(()) };
            }
            let (mut ended, mut done, mut total) = (false, 0, 0);
            let parts = self.under_way.parts().to_vec();
            for part in &parts {
                if self.waiting.contains(&part.number) {
                    continue;
                }
                match self.advance(part)? {
                    PartStep::Ended(files, how) => {
                        // `advance` may have changed the part.
                        let part = self.under_way.parts().iter().find(|p| p.number == part.number).cloned();
                        let Some(part) = part else { continue };
                        let failed = self.fetch(&part, &files, &index, &mut answered, deliver)?;
                        self.count(failed, &mut tries)?;
                        how?;
                        ended = true;
                    }
                    PartStep::UnderWay(some, of) => (done, total) = (done + some, total + of),
                    PartStep::Waiting => {
                        self.waiting.insert(part.number);
                    }
                }
            }
            let note = format!(" · {} batches, {done} of {total} requests done", parts.len());
            deliver(Delivery { note, ..Delivery::default() })?;
            if self.waiting.len() == parts.len() {
                // None of them has started, so nothing is lost, and a new batch size takes effect.
                for part in self.under_way.parts().to_vec() {
                    self.under_way.forget(&part)?;
                }
                let what = "the server has no room for a batch of this size; lower batch_requests, or wait until \
                            other batches have ended, and run again";
                return Err(self.wire.error(what));
            }
            if ended {
                self.waiting.clear();
                poll = FIRST_POLL;
                continue;
            }
            let longest = Duration::try_from_secs_f64(self.settings.poll_seconds).unwrap_or(Duration::MAX);
            self.pace.sleep(poll.min(longest)).map_err(|stop| self.stopped(stop))?;
            poll = poll.mul_f64(1.5).min(longest);
        }
    }

    /// Counts the failures of each query; fails if one has failed too often.
    fn count(&self, failed: Vec<(usize, RequestFailure)>, tries: &mut HashMap<usize, usize>) -> Result<()> {
        for (q, failure) in failed {
            let fatal = matches!(failure, RequestFailure::Never(_));
            let tries = tries.entry(q).or_default();
            *tries += 1;
            if fatal || *tries > self.settings.retries {
                let what = format!("a batch's request failed: {} (after {tries} attempts)", failure.what());
                return Err(self.wire.error(what));
            }
        }
        Ok(())
    }

    fn stopped(&self, stop: Stop) -> Error {
        match stopped(stop, self.settings) {
            Some(error) if stop != Stop::Interrupted => error,
            _ => Error::Interrupted("what was judged is kept, batches under way go on at the server".into()),
        }
    }

    /// Writes parts for queries that no part covers yet, within the budget; returns true if the budget is exhausted.
    fn plan(
        &mut self,
        queries: &[Query],
        answered: &[bool],
        prompt: &dyn Fn(usize) -> String,
    ) -> Result<bool> {
        let covered = |key: &str| self.under_way.covers(key);
        let open: Vec<usize> =
            (0..queries.len()).filter(|&q| !answered[q] && !covered(&queries[q].key)).collect();
        let mut open = open.into_iter().peekable();
        let mut exhausted = false;
        while open.peek().is_some() && !exhausted {
            let (mut lines, mut keys, mut dollars) = (String::new(), HashSet::new(), 0.0);
            while let Some(&q) = open.peek() {
                let text = prompt(q);
                let line = json!({
                    "custom_id": queries[q].key,
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": request(self.settings, &text),
                });
                let line = line.to_string() + "\n";
                if keys.len() == self.settings.batch_requests || lines.len() + line.len() > MOST_BYTES {
                    break;
                }
                let most = self.settings.prices().map_or(0.0, |prices| most_dollars(prices, &text));
                exhausted = !self.pace.reserve(most);
                if exhausted {
                    break;
                }
                dollars += most;
                lines.push_str(&line);
                keys.insert(queries[q].key.clone());
                open.next();
            }
            if !keys.is_empty() {
                self.under_way.add(&lines, keys, dollars)?;
            }
        }
        Ok(exhausted)
    }

    /// Advances a part as far as possible without waiting.
    fn advance(&mut self, part: &Part) -> Result<PartStep> {
        let mut part = part.clone();
        let (wire, since) = (self.wire, part.made_at);
        let file = if let Some(file) = part.file.clone() {
            file
        } else {
            let bytes = self.under_way.read(&part)?;
            let name = format!("emlab-{}.jsonl", part.mark);
            let file = self.retrying(|| match api::find_file(wire, &name, since)? {
                Some(file) => Ok(file),
                None => api::upload(wire, &name, &bytes),
            })?;
            part.file = Some(file.clone());
            self.under_way.update(&part)?;
            file
        };
        let batch = if let Some(batch) = part.batch.clone() {
            batch
        } else {
            let mark = part.batch_mark();
            let batch = self.retrying(|| match api::find_batch(wire, &mark, since)? {
                Some(batch) => Ok(batch),
                None => api::create(wire, &file, &mark),
            })?;
            part.batch = Some(batch.clone());
            self.under_way.update(&part)?;
            batch
        };
        match self.retrying(|| api::look(wire, &batch))? {
            Standing::Ended(files) => Ok(PartStep::Ended(files, Ok(()))),
            Standing::Cancelled(files) => {
                let what = format!(
                    "the batch {batch} was cancelled; what it brought is kept: run again for the rest"
                );
                Ok(PartStep::Ended(files, Err(self.wire.error(what))))
            }
            Standing::UnderWay(done, total) => Ok(PartStep::UnderWay(done, total)),
            Standing::NoRoom => {
                (part.batch, part.attempt) = (None, part.attempt + 1);
                self.under_way.update(&part).map(|()| PartStep::Waiting)
            }
            Standing::Refused(what) => {
                self.under_way.forget(&part)?;
                Err(self.wire.error(format!("the batch {batch} was refused: {what}")))
            }
        }
    }

    /// Fetches and stores the results of a part that has ended; returns the queries that it did not answer.
    fn fetch(
        &mut self,
        part: &Part,
        files: &[String],
        index: &HashMap<&str, usize>,
        answered: &mut [bool],
        deliver: &mut Deliver,
    ) -> Result<Vec<(usize, RequestFailure)>> {
        let (mut lines, mut delivery) = (BTreeMap::new(), Delivery::default());
        for file in files {
            let (requests, usage) = self.retrying(|| api::results(self.wire, file, &mut lines))?;
            delivery.requests += requests;
            delivery.usage += usage;
        }
        let asked = self.under_way.keys(part);
        let mut failed = Vec::new();
        for key in &asked {
            let Some(&q) = index.get(key.as_str()) else { continue };
            match lines.remove(key) {
                Some(Ok(distribution)) => {
                    answered[q] = true;
                    delivery.said.push((q, distribution));
                }
                Some(Err(failure)) => failed.push((q, failure)),
                None => failed.push((q, RequestFailure::again("no answer in the batch's results"))),
            }
        }
        delivery.charge = Some(format!("batch-{}", part.batch_mark()));
        let spent = deliver(delivery)?;
        self.pace.settle(part.dollars, spent);
        self.under_way.forget(part)?;
        Ok(failed)
    }

    /// Retries until there is an answer, or retrying cannot help.
    fn retrying<T>(&self, mut ask: impl FnMut() -> WireResult<T>) -> Result<T> {
        let mut attempt = 0;
        loop {
            let failure = match ask() {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = match &failure {
                RequestFailure::Again { wait, .. } if attempt < self.settings.retries => *wait,
                RequestFailure::Again { .. } => {
                    return Err(self.wire.error(format!(
                        "{} (after {} attempts)",
                        failure.what(),
                        attempt + 1
                    )));
                }
                RequestFailure::Never(_) | RequestFailure::NoLogprobs => {
                    return Err(self.wire.error(failure.what()));
                }
            };
            let pause = self.backoff.wait(0, attempt, wait);
            self.pace.sleep(pause).map_err(|stop| self.stopped(stop))?;
            attempt += 1;
        }
    }
}
