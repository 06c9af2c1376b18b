//! Judging by batches: files of requests that the server answers within a day.
//!
//! ```text
//! DIR/batches/JUDGE/state.json        the batches under way
//! DIR/batches/JUDGE/part-0001.jsonl   the requests of one of them
//! ```
//!
//! Each part is written, uploaded, made a batch, looked at until it has ended, fetched, stored, and forgotten; every
//! step is written down as soon as it is done. A process that dies between a step and its writing down does no harm:
//! files and batches carry a name of our own by which the next attempt finds them at the server before it makes them,
//! and results may be fetched and stored twice, because judgements and charges are kept by what they are of. Requests
//! that have failed or expired are covered by no part any more, so they go into a new one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::batch_api::{self as api, Standing};
use super::live::{Delivery, stopped};
use super::openai::OpenAi;
use super::pace::{Backoff, Pace, Stop};
use super::server::Query;
use super::wire::{Failure, Reply, Wire};
use crate::study::store;
use crate::{Error, Result};

/// Most bytes of a part; `OpenAI` takes 200 MB.
const MOST_BYTES: usize = 200_000_000;
/// The wait before the second look at a batch; it grows by half each time.
const FIRST_POLL: Duration = Duration::from_secs(5);

/// What is written down.
#[derive(Default, Serialize, Deserialize)]
struct State {
    /// Parts so far.
    made: usize,
    under_way: Vec<Part>,
}

/// A file of requests under way.
#[derive(Clone, Serialize, Deserialize)]
struct Part {
    number: usize,
    /// Our name for it at the server.
    mark: String,
    /// Batches begun over it, for the server has no room for every batch at once.
    attempt: usize,
    /// When it was made, in seconds since 1970.
    made_at: u64,
    /// The most that it can cost.
    dollars: f64,
    /// Its id at the server, once it is uploaded.
    file: Option<String>,
    /// The batch, once it is begun.
    batch: Option<String>,
}

impl Part {
    fn batch_mark(&self) -> String {
        format!("{}-{}", self.mark, self.attempt)
    }
}

/// How far a part is.
enum Step {
    /// It has ended, with these files of results.
    Ended(Vec<String>),
    /// So many of its requests are done, of so many.
    UnderWay(u64, u64),
    /// The server has no room for it yet.
    Waiting,
}

/// Hands on what came back, and says what all has cost so far.
pub(super) type Deliver<'a> = dyn FnMut(Delivery) -> Result<f64> + 'a;

/// The batches of one judge.
pub(super) struct Batches<'a> {
    folder: &'a Path,
    settings: &'a OpenAi,
    wire: &'a Wire,
    pace: &'a Pace,
    backoff: Backoff,
    state: State,
    /// The requests of each part under way, by its number.
    keys: BTreeMap<usize, HashSet<String>>,
}

impl<'a> Batches<'a> {
    /// Reads what is under way.
    pub(super) fn open(
        folder: &'a Path,
        settings: &'a OpenAi,
        wire: &'a Wire,
        pace: &'a Pace,
        backoff: Backoff,
    ) -> Result<Self> {
        let path = folder.join("state.json");
        let state: State = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
            bytes => serde_json::from_slice(&bytes.map_err(Error::io(&path))?)
                .map_err(|error| Error::file(&path, format!("damaged: {error}")))?,
        };
        let mut batches = Self { folder, settings, wire, pace, backoff, state, keys: BTreeMap::new() };
        for part in &batches.state.under_way {
            let path = batches.path(part.number);
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            let key = |(i, line): (usize, &str)| {
                let id = serde_json::from_str::<Value>(line)
                    .ok()
                    .and_then(|v| Some(v["custom_id"].as_str()?.to_string()));
                id.ok_or_else(|| Error::line(&path, i + 1, "damaged: no request with a custom_id"))
            };
            let keys = text.lines().enumerate().map(key).collect::<Result<_>>()?;
            batches.keys.insert(part.number, keys);
        }
        batches.clean()?;
        Ok(batches)
    }

    /// Removes parts that a process has written, or was done with, when it died.
    fn clean(&self) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(self.folder) else { return Ok(()) };
        for entry in entries {
            let path = entry.map_err(Error::io(self.folder))?.path();
            let known = self.keys.keys().any(|&number| self.path(number) == path);
            if !known && path.extension().is_some_and(|extension| extension == "jsonl") {
                std::fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }

    /// Refuses to go on while there are batches under way: their requests would be paid for twice.
    pub(super) fn check_none(&self) -> Result<()> {
        if self.state.under_way.is_empty() {
            return Ok(());
        }
        let what = format!(
            "{} batches are under way; fetch them with mode = \"batch\", or cancel them at the server and delete \
             this folder",
            self.state.under_way.len()
        );
        Err(Error::file(self.folder, what))
    }

    /// Has every query answered. `prompt` gives a query's text.
    ///
    /// # Errors
    /// `Error::Network` if the server refuses, or goes on failing; `Error::Run` at the budget or the deadline; what is
    /// under way then goes on at the server, and the next attempt fetches it. Whatever `deliver` returns.
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
        // Whatever is under way was within the budget when it began.
        self.pace.hold(self.state.under_way.iter().map(|part| part.dollars).sum());
        let mut poll = FIRST_POLL;
        loop {
            let exhausted = self.plan(queries, &answered, prompt)?;
            if self.state.under_way.is_empty() {
                return if exhausted { Err(self.stopped(Stop::Budget)) } else { Ok(()) };
            }
            let (mut ended, mut waiting, mut done, mut total) = (false, 0, 0, 0);
            let parts = self.state.under_way.clone();
            for part in &parts {
                match self.advance(part)? {
                    Step::Ended(files) => {
                        // What the part has become on the way.
                        let part = self.state.under_way.iter().find(|p| p.number == part.number).cloned();
                        let Some(part) = part else { continue };
                        let failed = self.fetch(&part, &files, &index, &mut answered, deliver)?;
                        self.count(failed, &mut tries)?;
                        ended = true;
                    }
                    Step::UnderWay(some, of) => (done, total) = (done + some, total + of),
                    Step::Waiting => waiting += 1,
                }
            }
            let note = format!(" · {} batches, {done} of {total} requests done", parts.len());
            deliver(Delivery { note, ..Delivery::default() })?;
            if waiting == parts.len() {
                let what = "the server has no room for a batch of this size; lower batch_requests and delete the \
                            run's batches folder, or wait until other batches have ended";
                return Err(self.wire.error(what));
            }
            if ended {
                poll = FIRST_POLL;
                continue;
            }
            let longest = Duration::try_from_secs_f64(self.settings.poll_seconds).unwrap_or(Duration::MAX);
            self.pace.sleep(poll.min(longest)).map_err(|stop| self.stopped(stop))?;
            poll = poll.mul_f64(1.5).min(longest);
        }
    }

    /// Counts the failures of queries; some are one too many.
    fn count(&self, failed: Vec<(usize, Failure)>, tries: &mut HashMap<usize, usize>) -> Result<()> {
        for (q, failure) in failed {
            let fatal = matches!(failure, Failure::Never(_));
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
        stopped(stop, self.settings).unwrap_or_else(|| Error::Interrupted("what was judged is kept".into()))
    }

    /// Writes parts for what no part covers, as far as the budget goes; true if it does not go far enough.
    fn plan(
        &mut self,
        queries: &[Query],
        answered: &[bool],
        prompt: &dyn Fn(usize) -> String,
    ) -> Result<bool> {
        let covered = |key: &String| self.keys.values().any(|keys| keys.contains(key));
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
                    "body": self.settings.request(&text),
                });
                let line = line.to_string() + "\n";
                if keys.len() == self.settings.batch_requests || lines.len() + line.len() > MOST_BYTES {
                    break;
                }
                let most = self.settings.prices().map_or(0.0, |prices| prices.most(&text));
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
                self.begin(&lines, keys, dollars)?;
            }
        }
        Ok(exhausted)
    }

    /// Writes a part and that there is one.
    fn begin(&mut self, lines: &str, keys: HashSet<String>, dollars: f64) -> Result<()> {
        std::fs::create_dir_all(self.folder).map_err(Error::io(self.folder))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = self.state.made + 1;
        let mark =
            store::sha256(format!("{lines}{number}{}{}", now.as_nanos(), std::process::id()).as_bytes());
        store::write_whole(&self.path(number), lines.as_bytes())?;
        self.state.made = number;
        self.state.under_way.push(Part {
            number,
            mark: mark[..32].to_string(),
            attempt: 1,
            made_at: now.as_secs(),
            dollars,
            file: None,
            batch: None,
        });
        self.keys.insert(number, keys);
        self.save()
    }

    /// Takes a part as far as it goes without waiting.
    fn advance(&mut self, part: &Part) -> Result<Step> {
        let mut part = part.clone();
        let (wire, since) = (self.wire, part.made_at);
        let file = match part.file.clone() {
            Some(file) => file,
            None => {
                let path = self.path(part.number);
                let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
                let name = format!("emlab-{}.jsonl", part.mark);
                let file = self.retrying(|| match api::find_file(wire, &name, since)? {
                    Some(file) => Ok(file),
                    None => api::upload(wire, &name, &bytes),
                })?;
                part.file = Some(file.clone());
                self.update(&part)?;
                file
            }
        };
        let batch = match part.batch.clone() {
            Some(batch) => batch,
            None => {
                let mark = part.batch_mark();
                let batch = self.retrying(|| match api::find_batch(wire, &mark, since)? {
                    Some(batch) => Ok(batch),
                    None => api::create(wire, &file, &mark),
                })?;
                part.batch = Some(batch.clone());
                self.update(&part)?;
                batch
            }
        };
        match self.retrying(|| api::look(wire, &batch))? {
            Standing::Ended(files) => Ok(Step::Ended(files)),
            Standing::UnderWay(done, total) => Ok(Step::UnderWay(done, total)),
            Standing::NoRoom => {
                (part.batch, part.attempt) = (None, part.attempt + 1);
                self.update(&part).map(|()| Step::Waiting)
            }
            Standing::Refused(what) => {
                self.forget(&part)?;
                Err(self.wire.error(format!("the batch {batch} was refused: {what}")))
            }
        }
    }

    /// Fetches and stores the results of a part that has ended; gives the queries that it has not answered.
    fn fetch(
        &mut self,
        part: &Part,
        files: &[String],
        index: &HashMap<&str, usize>,
        answered: &mut [bool],
        deliver: &mut Deliver,
    ) -> Result<Vec<(usize, Failure)>> {
        let (mut lines, mut delivery) = (BTreeMap::new(), Delivery::default());
        for file in files {
            let (requests, usage) = self.retrying(|| api::results(self.wire, file, &mut lines))?;
            delivery.requests += requests;
            delivery.usage += usage;
        }
        let asked = self.keys.get(&part.number).cloned().unwrap_or_default();
        let mut failed = Vec::new();
        for key in &asked {
            let Some(&q) = index.get(key.as_str()) else { continue };
            match lines.remove(key) {
                Some(Ok(distribution)) => {
                    answered[q] = true;
                    delivery.said.push((q, distribution));
                }
                Some(Err(failure)) => failed.push((q, failure)),
                None => failed.push((q, Failure::again("no answer in the batch's results"))),
            }
        }
        delivery.charge = Some(format!("batch-{}", part.batch_mark()));
        let spent = deliver(delivery)?;
        self.pace.settle(part.dollars, spent);
        self.forget(part)?;
        Ok(failed)
    }

    /// Asks until there is an answer, as far as it may help.
    fn retrying<T>(&self, mut ask: impl FnMut() -> Reply<T>) -> Result<T> {
        let mut attempt = 0;
        loop {
            let failure = match ask() {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = match &failure {
                Failure::Again { wait, .. } if attempt < self.settings.retries => *wait,
                Failure::Again { .. } => {
                    return Err(self.wire.error(format!(
                        "{} (after {} attempts)",
                        failure.what(),
                        attempt + 1
                    )));
                }
                Failure::Never(_) | Failure::NoLogprobs => return Err(self.wire.error(failure.what())),
            };
            let pause = self.backoff.wait(0, attempt, wait);
            self.pace.sleep(pause).map_err(|stop| self.stopped(stop))?;
            attempt += 1;
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("part-{number:04}.jsonl"))
    }

    fn update(&mut self, part: &Part) -> Result<()> {
        for under_way in &mut self.state.under_way {
            if under_way.number == part.number {
                *under_way = part.clone();
            }
        }
        self.save()
    }

    fn forget(&mut self, part: &Part) -> Result<()> {
        self.state.under_way.retain(|under_way| under_way.number != part.number);
        self.keys.remove(&part.number);
        self.save()?;
        let path = self.path(part.number);
        std::fs::remove_file(&path).map_err(Error::io(&path))
    }

    fn save(&self) -> Result<()> {
        let state = serde_json::to_vec_pretty(&self.state)
            .map_err(|error| Error::Run(format!("cannot write the state of the batches as JSON: {error}")))?;
        store::write_whole(&self.folder.join("state.json"), &state)
    }
}
