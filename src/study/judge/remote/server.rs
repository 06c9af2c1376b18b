//! A server that judges a run's answers: what is in the cache is taken from there, the rest is asked for, live or in
//! batches, and paid for once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::batch::Batches;
use super::batch_state::UnderWay;
use super::cache::{self, Cache};
use super::live::{Delivery, Live};
use super::numbers::Numbers;
use super::openai::request;
use super::pace::{Backoff, Pace};
use super::query::Query;
use super::wire::Wire;
use crate::study::folder::RunFolder;
use crate::study::judge::aggregate::Distribution;
use crate::study::judge::judgement::Task;
use crate::study::plan::judges::{Mode, OpenAi};
use crate::{Error, Result};

/// Receives distributions of some tasks, by index, and a text with the cost so far.
pub type Done<'a> = dyn FnMut(Vec<(usize, Distribution)>, &str) -> Result<()> + 'a;

/// A server that can be asked.
pub struct Server {
    settings: OpenAi,
    wire: Wire,
    pace: Pace,
    backoff: Backoff,
    account: Account,
    cache: Option<Cache>,
    numbers: Numbers,
    /// Folder with the state of the batches in flight.
    batches: PathBuf,
}

/// How a server is accessed, apart from what the plan says.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The key; none takes it from the environment variable that the plan names.
    pub key: Option<String>,
    /// The folder of the caches; none is the user's.
    pub cache: Option<PathBuf>,
    /// Waits between attempts.
    pub backoff: Backoff,
}

const DIGITS: &str = "this judge writes numbers digit by digit, so its first token is no score; ask this model through \
                      [judge.local], or a model that writes whole numbers, under a new name";

/// Number of cached distributions that are stored together.
const TOGETHER: usize = 1024;

impl Server {
    /// Makes the server ready for the run in `dir`, where it is called `name`.
    ///
    /// # Errors
    /// `Error::Setting` if `OpenAI` is to be asked and its key's variable is not set, or a setting cannot work.
    pub fn open(name: &str, settings: &OpenAi, dir: &Path, access: Access) -> Result<Self> {
        settings.check()?;
        let run = RunFolder::new(dir);
        let wire = Wire::new(settings, access.key)?;
        let account = Account::open(&run.account(name), settings.prices())?;
        let cache = match (settings.cache, &access.cache) {
            (false, _) => None,
            (true, Some(home)) => Some(Cache::open(home, settings)?),
            (true, None) => Some(Cache::open(&Cache::home()?, settings)?),
        };
        let spent = account.total().dollars;
        Ok(Self {
            wire,
            pace: Pace::new(settings.concurrency, settings.deadline(), settings.budget_dollars, spent),
            backoff: access.backoff,
            account,
            cache,
            numbers: Numbers::default(),
            batches: run.batches(name),
            settings: settings.clone(),
        })
    }

    /// Whether all tasks of a run should come in one call.
    pub fn wants_all(&self) -> bool {
        self.settings.mode == Mode::Batch
    }

    /// Whether batches are in flight, so that [`Self::judge`] has work even without tasks.
    ///
    /// # Errors
    /// `Error::File` if their recorded state is damaged.
    pub fn has_batches(&self) -> Result<bool> {
        Ok(self.wants_all() && !UnderWay::open(&self.batches)?.parts().is_empty())
    }

    /// Judges the tasks and passes answers on as they arrive. After an error, requests in flight are still passed on.
    ///
    /// # Errors
    /// `Error::Network` if the server refuses, or goes on failing, or writes numbers digit by digit; `Error::Run` at the
    /// budget or the deadline; whatever `done` returns.
    pub fn judge(&mut self, tasks: &[Task], done: &mut Done) -> Result<()> {
        self.pace.start();
        let queries = self.answer_from_cache(self.queries(tasks), done)?;
        let prompt = |index: usize| tasks[queries[index].tasks[0]].prompt();
        let Self { settings, wire, pace, backoff, account, cache, numbers, batches } = self;
        let deliver = &mut |delivery: Delivery| {
            account.charge(delivery.charge.as_deref(), delivery.requests, delivery.usage)?;
            if let Some(cache) = cache {
                let said = delivery.said.iter();
                cache.put(&said.map(|(q, said)| (queries[*q].key.as_str(), said)).collect::<Vec<_>>())?;
            }
            if !delivery.said.iter().all(|(_, said)| numbers.are_whole(said)) {
                return Err(wire.error(DIGITS));
            }
            let said = delivery.said.iter().flat_map(|(q, said)| queries[*q].answered(said)).collect();
            done(said, &format!("{}{}", account.total(), delivery.note))?;
            Ok(account.total().dollars)
        };
        let (under_way, backoff) = (UnderWay::open(batches)?, *backoff);
        match settings.mode {
            Mode::Batch => {
                let waiting = HashSet::new();
                Batches { settings, wire, pace, backoff, under_way, waiting }.run(&queries, &prompt, deliver)
            }
            Mode::Live if !under_way.parts().is_empty() => {
                let what = format!(
                    "{} batches are under way, and would be paid for twice; fetch them with mode = \"batch\", or \
                     cancel them at the server and delete this folder",
                    under_way.parts().len()
                );
                Err(Error::file(batches, what))
            }
            Mode::Live => {
                let live = Live { settings, wire, pace, backoff };
                live.ask(queries.len(), &prompt, &mut |delivery| deliver(delivery).map(|_| ()))
            }
        }
    }

    /// Groups the tasks by prompt.
    fn queries(&self, tasks: &[Task]) -> Vec<Query> {
        let (mut queries, mut known) = (Vec::<Query>::new(), HashMap::<String, usize>::new());
        for (index, task) in tasks.iter().enumerate() {
            let key = cache::key(&self.settings, &request(&self.settings, &task.prompt()));
            let q = *known.entry(key).or_insert_with_key(|key| {
                queries.push(Query { key: key.clone(), tasks: Vec::new() });
                queries.len() - 1
            });
            queries[q].tasks.push(index);
        }
        queries
    }

    /// Passes on what is in the cache, and returns the remaining queries.
    fn answer_from_cache(&mut self, queries: Vec<Query>, done: &mut Done) -> Result<Vec<Query>> {
        let Some(cache) = &self.cache else { return Ok(queries) };
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        let total = self.account.total().to_string();
        for query in queries {
            match cache.get(&query.key) {
                Some(said) if !self.numbers.are_whole(&said) => return Err(self.wire.error(DIGITS)),
                Some(said) => found.extend(query.answered(&said)),
                None => missing.push(query),
            }
            if found.len() >= TOGETHER {
                done(std::mem::take(&mut found), &total)?;
            }
        }
        if !found.is_empty() {
            done(found, &total)?;
        }
        Ok(missing)
    }
}
