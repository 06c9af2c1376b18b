//! The judging step: each judge over the answers that a run has and that it has not judged.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cell::{Answer, Cell, fingerprint, judgements_configuration};
use super::engine::Engine;
use super::judge::aggregate::Distribution;
use super::judge::local::Local;
use super::judge::server::Server;
use super::judge::settings::{Judge, Kind};
use super::judge::{Judgement, Task};
use super::plan::Plan;
use super::run::Options;
use super::store::{self, Ledger};
use crate::Result;
use crate::progress::Progress;

/// A judge's place in a run.
pub(super) struct Seat<'a> {
    pub(super) judge: &'a Judge,
    dir: &'a Path,
    /// What each cell's judgements depend on.
    configurations: Vec<Value>,
}

/// A judge that can be asked.
pub(super) enum Rater<'a> {
    Server(Box<Server>),
    Local(&'a Local),
}

impl<'a> Seat<'a> {
    /// The place of `judge` in the run in `dir`; `answers` is what each cell's answers depend on.
    ///
    /// # Errors
    /// `Error::Io` if a local judge's files cannot be read.
    pub(super) fn new(judge: &'a Judge, dir: &'a Path, cells: &[Cell], answers: &[Value]) -> Result<Self> {
        let fingerprint = match &judge.kind {
            Kind::Local(local) => Some(fingerprint(&local.path)?),
            Kind::OpenAi(_) | Kind::Imported(_) => None,
        };
        let configuration = |(cell, answers): (&Cell, &Value)| {
            judgements_configuration(&judge.kind, fingerprint.as_deref(), cell, answers)
        };
        let configurations = cells.iter().zip(answers).map(configuration).collect();
        Ok(Self { judge, dir, configurations })
    }

    /// Checks the judgements that are there against the plan.
    ///
    /// # Errors
    /// `Error::File` if they were made under other settings.
    pub(super) fn check(&self, cells: &[Cell]) -> Result<()> {
        for (cell, configuration) in cells.iter().zip(&self.configurations) {
            store::check(
                &judgements_folder(self.dir, &self.judge.name, cell).join(store::MANIFEST),
                configuration,
            )?;
        }
        Ok(())
    }

    /// Makes the judge ready, so that one that cannot be asked is known before hours of sampling; none if its judgements
    /// were imported.
    ///
    /// # Errors
    /// `Error::Setting` if a server's key is missing or a setting cannot work.
    pub(super) fn rater(&self, options: &Options) -> Result<Option<Rater<'a>>> {
        let rater = match &self.judge.kind {
            Kind::OpenAi(settings) => {
                let cache = options.judge_cache.as_deref();
                let server = Server::open(&self.judge.name, settings, self.dir, cache)?;
                Rater::Server(Box::new(server))
            }
            Kind::Local(local) => Rater::Local(local),
            Kind::Imported(_) => return Ok(None),
        };
        Ok(Some(rater))
    }

    /// Judges what is not judged yet.
    ///
    /// # Errors
    /// Whatever stops the judge; what came before stays.
    pub(super) fn judge(
        &self,
        plan: &Plan,
        cells: &[Cell],
        rater: &mut Rater,
        engine: &mut dyn Engine,
        progress: bool,
    ) -> Result<()> {
        let mut rest = cells.iter().enumerate();
        while rest.len() > 0 {
            let together = match rater {
                // Batches may take a day each, so they hold all cells.
                Rater::Server(server) if server.wants_all() => usize::MAX,
                Rater::Server(_) => TOGETHER,
                Rater::Local(_) => 1,
            };
            let Docket { tasks, mut ledgers } = Docket::open(self, plan, &mut rest, together)?;
            let has_batches = match rater {
                Rater::Server(server) => server.has_batches()?,
                Rater::Local(_) => false,
            };
            if tasks.is_empty() && !has_batches {
                continue;
            }
            let what = if ledgers.len() == 1 { &tasks[0].cell } else { "" };
            let label = format!("judge {} {what}", self.judge.name);
            let progress = Progress::new(label.trim_end(), tasks.len(), progress);
            let mut done = |batch: Vec<(usize, Distribution)>, cost: &str| {
                let n = batch.len();
                record(&tasks, &mut ledgers, batch)?;
                progress.note(cost);
                progress.advance(n);
                Ok(())
            };
            match rater {
                Rater::Local(local) => {
                    let prompts: Vec<String> = tasks.iter().map(Task::prompt).collect();
                    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
                    engine.rate(local, &prompts, &mut |index, said| done(vec![(index, said)], ""))?;
                }
                Rater::Server(server) => server.judge(&tasks, &mut done)?,
            }
            progress.finish();
        }
        Ok(())
    }
}

/// Judgements that a server is asked for together: it idles while the last of them wait for another attempt, and all of
/// them are in memory.
const TOGETHER: usize = 1 << 14;

/// Where a judge's judgements of a cell lie.
pub(super) fn judgements_folder(dir: &Path, judge: &str, cell: &Cell) -> PathBuf {
    dir.join("judgements").join(judge).join(cell.id())
}

/// What is to be judged, and where it goes.
struct Docket<'a> {
    tasks: Vec<Task<'a>>,
    ledgers: Vec<Ledger<Judgement>>,
}

impl<'a> Docket<'a> {
    /// The answers that the judge has not judged, of as many of the next cells as it takes for `most` judgements.
    fn open(
        seat: &Seat,
        plan: &'a Plan,
        cells: &mut impl Iterator<Item = (usize, &'a Cell<'a>)>,
        most: usize,
    ) -> Result<Self> {
        let (mut tasks, mut ledgers) = (Vec::new(), Vec::new());
        while tasks.len() < most {
            let Some((i, cell)) = cells.next() else { break };
            let answers = store::read::<Answer>(&answers_folder(seat.dir, cell))?;
            let folder = judgements_folder(seat.dir, &seat.judge.name, cell);
            let ledger = Ledger::<Judgement>::open(&folder, &seat.configurations[i])?;
            let before = tasks.len();
            for (question, sample) in cell.samples(plan) {
                let Some(answer) = answers.get(&(question.id.clone(), sample)) else { continue };
                let answer: std::sync::Arc<str> = answer.answer.as_str().into();
                for (metric, template) in &question.judge_prompts {
                    if !ledger.records().contains_key(&(question.id.clone(), sample, metric.clone())) {
                        tasks.push(Task {
                            cell: cell.id(),
                            ledger: ledgers.len(),
                            question: &question.id,
                            sample,
                            metric,
                            template,
                            text: question.paraphrase(sample),
                            answer: answer.clone(),
                        });
                    }
                }
            }
            if tasks.len() > before {
                ledgers.push(ledger);
            }
        }
        Ok(Self { tasks, ledgers })
    }
}

/// Stores what the judge said about some of the tasks.
fn record(
    tasks: &[Task],
    ledgers: &mut [Ledger<Judgement>],
    batch: Vec<(usize, Distribution)>,
) -> Result<()> {
    let mut by_ledger: Vec<Vec<Judgement>> = ledgers.iter().map(|_| Vec::new()).collect();
    for (index, said) in batch {
        by_ledger[tasks[index].ledger].push(Judgement::new(&tasks[index], said));
    }
    ledgers.iter_mut().zip(by_ledger).try_for_each(|(ledger, judgements)| ledger.append(judgements))
}

/// Where a cell's answers lie.
pub(super) fn answers_folder(dir: &Path, cell: &Cell) -> PathBuf {
    dir.join("answers").join(cell.id())
}
