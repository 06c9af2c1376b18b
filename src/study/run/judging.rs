//! The judging step: every judge rates the answers that it has not rated yet.

use std::path::Path;
use std::sync::Arc;

use super::engine::Engine;
use crate::Result;
use crate::progress::Progress;
use crate::study::folder::RunFolder;
use crate::study::judge::aggregate::Distribution;
use crate::study::judge::remote::{Access, Server};
use crate::study::judge::{Judgement, Task};
use crate::study::plan::Plan;
use crate::study::plan::cell::Answer;
use crate::study::plan::judges::{Judge, JudgeKind, Local};
use crate::study::plan::made_under::PlannedCell;
use crate::study::store::{self, Ledger};

/// One judge's run over the answers of a study.
pub(super) struct JudgeRun<'a> {
    pub(super) judge: &'a Judge,
    /// Its place in the plan.
    index: usize,
    folder: &'a RunFolder,
}

/// A judge that can be asked.
pub(super) enum ReadyJudge<'a> {
    Server(Box<Server>),
    Local(&'a Local),
}

impl<'a> JudgeRun<'a> {
    /// Every judge of a plan over the run in `folder`, the primary first.
    pub(super) fn of_plan(plan: &'a Plan, folder: &'a RunFolder) -> Vec<Self> {
        plan.judges.iter().enumerate().map(|(index, judge)| Self { judge, index, folder }).collect()
    }

    /// Checks the judgements that are there against the plan.
    ///
    /// # Errors
    /// `Error::File` if they were made under other settings.
    pub(super) fn check(&self, cells: &[PlannedCell]) -> Result<()> {
        for planned in cells {
            let folder = self.folder.judgements(&self.judge.name, &planned.cell);
            store::check(&folder.join(store::MANIFEST), &planned.judgements[self.index])?;
        }
        Ok(())
    }

    /// Prepares the judge, so that one that cannot be asked is found out before hours of sampling; none if its judgements
    /// were imported. `cache` is the folder of the caches; none uses the user's.
    ///
    /// # Errors
    /// `Error::Setting` if a server's key is missing or a setting is invalid.
    pub(super) fn ready(&self, cache: Option<&Path>) -> Result<Option<ReadyJudge<'a>>> {
        let ready = match &self.judge.kind {
            JudgeKind::OpenAi(settings) => {
                let access = Access { cache: cache.map(Path::to_path_buf), ..Access::default() };
                let server = Server::open(&self.judge.name, settings, self.folder.dir(), access)?;
                ReadyJudge::Server(Box::new(server))
            }
            JudgeKind::Local(local) => ReadyJudge::Local(local),
            JudgeKind::Imported(_) => return Ok(None),
        };
        Ok(Some(ready))
    }

    /// Judges what is not judged yet.
    ///
    /// # Errors
    /// Whatever stops the judge; earlier judgements are kept.
    pub(super) fn judge(
        &self,
        plan: &Plan,
        cells: &[PlannedCell],
        judge: &mut ReadyJudge,
        engine: &mut dyn Engine,
        progress: bool,
    ) -> Result<()> {
        let mut rest = cells.iter();
        while rest.len() > 0 {
            let together = match judge {
                // A batch may take a day, so all cells go together.
                ReadyJudge::Server(server) if server.wants_all() => usize::MAX,
                ReadyJudge::Server(_) => TOGETHER,
                ReadyJudge::Local(_) => 1,
            };
            let Pending { tasks, mut ledgers } = Pending::open(self, plan, &mut rest, together)?;
            let has_batches = match judge {
                ReadyJudge::Server(server) => server.has_batches()?,
                ReadyJudge::Local(_) => false,
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
            match judge {
                ReadyJudge::Local(local) => {
                    let prompts: Vec<String> = tasks.iter().map(Task::prompt).collect();
                    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
                    engine.rate(local, &prompts, &mut |index, said| done(vec![(index, said)], ""))?;
                }
                ReadyJudge::Server(server) => server.judge(&tasks, &mut done)?,
            }
            progress.finish();
        }
        Ok(())
    }
}

/// Judgements that a server is asked for together. All of them are in memory, and the server idles while the last ones
/// wait for a retry.
const TOGETHER: usize = 1 << 14;

/// Pending judgements, and the ledgers that receive them.
struct Pending<'a> {
    tasks: Vec<Task<'a>>,
    ledgers: Vec<Ledger<Judgement>>,
}

impl<'a> Pending<'a> {
    /// Collects unjudged answers from the next cells until there are `most` pending judgements.
    fn open(
        run: &JudgeRun,
        plan: &'a Plan,
        cells: &mut impl Iterator<Item = &'a PlannedCell<'a>>,
        most: usize,
    ) -> Result<Self> {
        let (mut tasks, mut ledgers) = (Vec::new(), Vec::new());
        while tasks.len() < most {
            let Some(planned) = cells.next() else { break };
            let cell = &planned.cell;
            let answers = store::read::<Answer>(&run.folder.answers(cell))?;
            let folder = run.folder.judgements(&run.judge.name, cell);
            let ledger = Ledger::<Judgement>::open(&folder, &planned.judgements[run.index])?;
            let before = tasks.len();
            for (question, sample) in cell.samples(plan) {
                let Some(answer) = answers.get(&(question.id.clone(), sample)) else { continue };
                let answer: Arc<str> = answer.answer.as_str().into();
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

/// Stores the judge's answers to some of the tasks.
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
