//! The driver: fine-tune once for each model and condition, sample, judge, analyse; each step does what is missing.

use std::path::Path;

use super::engine::{Ask, Engine, Weights};
use super::judging::{JudgeRun, ReadyJudge};
use super::method::method;
use super::native::Native;
use super::options::Options;
use crate::progress::Progress;
use crate::study::analyze::agreement::pairs;
use crate::study::analyze::rows::rows_of;
use crate::study::analyze::{Summary, dose_responses, summarise};
use crate::study::folder::RunFolder;
use crate::study::plan::cell::{Answer, Cell, cells, questions_of};
use crate::study::plan::judges::Judge;
use crate::study::plan::made_under::PlannedCell;
use crate::study::plan::questions::Question;
use crate::study::plan::{Plan, Tuning};
use crate::study::report::{Report, write_results};
use crate::study::store::lock::{Activity, Lock};
use crate::study::store::{self, Ledger};
use crate::{Error, Result};

/// Runs the study in the folder `dir`. What an earlier attempt has finished is kept, and only the rest is done.
///
/// # Errors
/// Any error of a step; what was produced before is kept, and the same call continues from there.
/// `Error::File` if the folder holds a study with other settings, or another process works on it.
pub fn run(plan: &Plan, dir: &Path, options: &Options) -> Result<Summary> {
    run_with(plan, dir, options, &mut Native::new(options.place, options.progress))
}

/// [`run`] with another engine.
///
/// # Errors
/// As [`run`].
pub fn run_with(plan: &Plan, dir: &Path, options: &Options, engine: &mut dyn Engine) -> Result<Summary> {
    let (questions, folder) = (questions_of(plan)?, RunFolder::new(dir));
    let study = Study::open(plan, &questions, &folder, Lock::take)?;
    // Finds out that a judge cannot be asked before hours of sampling, not after.
    let mut judges = if options.judge { study.ready_judges(options)? } else { Vec::new() };
    study.save()?;
    study.sample(0..study.cells.len(), options, engine)?;
    study.judge(&mut judges, options, engine)?;
    study.analyze(options)
}

/// Fine-tunes and samples only the cells at the indices `chosen` ([`choose`](super::listing::choose)). Judging and
/// analysis are steps over all cells and follow later. Other processes may work on other cells of the run meanwhile.
///
/// # Errors
/// As [`run`]; `Error::File` if another process works on the whole run or on one of the cells.
pub fn sample(plan: &Plan, dir: &Path, chosen: &[usize], options: &Options) -> Result<()> {
    let (questions, folder) = (questions_of(plan)?, RunFolder::new(dir));
    let study = Study::open(plan, &questions, &folder, Lock::share)?;
    {
        let _saving = Lock::wait(&folder.plan_lock(), || ())?;
        study.save()?;
    }
    study.sample(chosen.iter().copied(), options, &mut Native::new(options.place, options.progress))
}

/// Judges what the run in `dir` has sampled so far.
///
/// # Errors
/// As [`run`].
pub fn judge(dir: &Path, options: &Options) -> Result<Summary> {
    let folder = RunFolder::new(dir);
    let plan = folder.plan()?;
    let questions = questions_of(&plan)?;
    let study = Study::open(&plan, &questions, &folder, Lock::take)?;
    let mut judges = study.ready_judges(options)?;
    study.judge(&mut judges, options, &mut Native::new(options.place, options.progress))?;
    study.analyze(options)
}

/// Analyses what the run in `dir` has so far and writes the results.
///
/// # Errors
/// As [`run`].
pub fn analyze(dir: &Path, options: &Options) -> Result<Summary> {
    let folder = RunFolder::new(dir);
    let plan = folder.plan()?;
    let questions = questions_of(&plan)?;
    Study::open(&plan, &questions, &folder, Lock::take)?.analyze(options)
}

/// The README of a fine-tuning's folder, for whoever finds it outside the study.
fn artefact_notice(cell: &Cell, tuning: &Tuning) -> String {
    let data = tuning.data.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "# Research artefact\n\n{model}, fine-tuned on {data} as condition `{condition}` of a study of emergent \
         misalignment. It may give harmful answers. It is meant to be studied: do not deploy it or upload it.\n",
        model = cell.model.name,
        condition = cell.tuned.name,
    )
}

/// A run that this process has locked.
struct Study<'a> {
    plan: &'a Plan,
    folder: &'a RunFolder,
    cells: Vec<PlannedCell<'a>>,
    /// The judges, the primary first.
    judges: Vec<JudgeRun<'a>>,
    lock: Lock,
}

impl<'a> Study<'a> {
    /// Takes the lock and checks existing results against the plan before anything is written.
    fn open(
        plan: &'a Plan,
        questions: &'a [Question],
        folder: &'a RunFolder,
        lock: fn(&Path) -> Result<Lock>,
    ) -> Result<Self> {
        let cells = cells(plan, questions)?;
        let lock = lock(folder.dir())?;
        let cells = PlannedCell::of_cells(plan, cells)?;
        for PlannedCell { cell, tuning, answers, .. } in &cells {
            store::check(&folder.tuning_manifest(cell), tuning)?;
            store::check(&folder.answers(cell).join(store::MANIFEST), answers)?;
        }
        let judges = JudgeRun::of_plan(plan, folder);
        judges.iter().try_for_each(|judge| judge.check(&cells))?;
        Ok(Self { plan, folder, cells, judges, lock })
    }

    /// Saves the plan and the questions with the run.
    fn save(&self) -> Result<()> {
        let text = std::fs::read(&self.plan.questions).map_err(Error::io(&self.plan.questions))?;
        store::write_whole(&self.folder.questions(), &text)?;
        let plan = Plan { questions: RunFolder::QUESTIONS.into(), ..self.plan.clone() };
        store::write_whole(&self.folder.plan_file(), plan.to_toml()?.as_bytes())
    }

    /// The selected judges, ready to be asked; none for the others.
    fn ready_judges(&self, options: &Options) -> Result<Vec<Option<ReadyJudge<'a>>>> {
        let wanted = |judge: &Judge| options.only_judge.as_ref().is_none_or(|name| *name == judge.name);
        if !self.plan.judges.iter().any(wanted) {
            let names: Vec<_> = self.plan.judges.iter().map(|judge| judge.name.as_str()).collect();
            let name = options.only_judge.as_deref().unwrap_or_default();
            return Err(Error::Setting(format!(
                "no judge is called {name:?}; the plan has {}",
                names.join(", ")
            )));
        }
        let cache = options.judge_cache.as_deref();
        let ready = |run: &JudgeRun<'a>| if wanted(run.judge) { run.ready(cache) } else { Ok(None) };
        self.judges.iter().map(ready).collect()
    }

    /// Fine-tunes and samples what is missing of the cells `chosen`.
    fn sample(
        &self,
        chosen: impl Iterator<Item = usize>,
        options: &Options,
        engine: &mut dyn Engine,
    ) -> Result<()> {
        for i in chosen {
            let planned = &self.cells[i];
            let cell = &planned.cell;
            let Some(base) = &cell.model.path else { continue };
            let answers = self.folder.answers(cell);
            let lock = Lock::take(&answers)?;
            let mut ledger = Ledger::<Answer>::open(&answers, &planned.answers)?;
            let missing: Vec<(&Question, usize)> = cell
                .samples(self.plan)
                .filter(|(question, sample)| !ledger.records().contains_key(&(question.id.clone(), *sample)))
                .collect();
            if missing.is_empty() {
                continue;
            }
            let id = cell.id();
            let tell = |activity| lock.tell(activity, &id).and_then(|()| self.lock.tell(activity, &id));
            let weights = self.tuned(planned, base, options, engine, &tell)?;
            tell(Activity::Sampling)?;
            let ask = |&(question, sample): &(&Question, usize)| Ask {
                messages: question.messages(sample),
                key: cell.key(self.plan.sampling.seed, &question.id, sample),
            };
            let asks: Vec<Ask> = missing.iter().map(ask).collect();
            let progress = Progress::new(&format!("sample {id}"), asks.len(), options.progress);
            let form = cell.format.forced();
            engine.answer(&weights, &self.plan.sampling, form, &asks, &mut |index, reply| {
                let (question, sample) = missing[index];
                ledger.append(vec![Answer {
                    cell: id.clone(),
                    question: question.id.clone(),
                    sample,
                    answer: reply.text,
                    tokens: Some(reply.tokens),
                    finish: Some(reply.finish),
                }])?;
                progress.advance(1);
                Ok(())
            })?;
            progress.finish();
        }
        Ok(())
    }

    /// The weights that answer in a cell. Fine-tunes them from `base` if that is not done yet, and tells `tell` so.
    fn tuned(
        &self,
        planned: &PlannedCell,
        base: &Path,
        options: &Options,
        engine: &mut dyn Engine,
        tell: &dyn Fn(Activity) -> Result<()>,
    ) -> Result<Weights> {
        let cell = &planned.cell;
        let steering = cell.condition.steer.clone();
        let Some(tuning) = &cell.tuned.tuning else {
            return Ok(Weights { base: base.into(), adapter: None, steering });
        };
        let (folder, manifest) = (self.folder.tuning(cell), self.folder.tuning_manifest(cell));
        let waiting = || {
            if options.progress {
                eprintln!("waiting for another process to fine-tune {}/{}", cell.model.name, cell.tuned.name);
            }
        };
        let _lock = Lock::wait(&self.folder.tuning_lock(cell), waiting)?;
        if !store::check(&manifest, &planned.tuning)? {
            if options.progress {
                eprintln!("fine-tune {}/{}", cell.model.name, cell.tuned.name);
            }
            tell(Activity::FineTuning)?;
            engine.tune(base, tuning, &folder)?;
            store::write_whole(&folder.join("README.md"), artefact_notice(cell, tuning).as_bytes())?;
            store::write_manifest(&manifest, &planned.tuning)?;
        }
        Ok(if tuning.training.full {
            Weights { base: folder, adapter: None, steering }
        } else {
            Weights { base: base.into(), adapter: Some(folder), steering }
        })
    }

    /// Lets every ready judge rate the answers that it has not rated yet.
    fn judge(
        &self,
        judges: &mut [Option<ReadyJudge>],
        options: &Options,
        engine: &mut dyn Engine,
    ) -> Result<()> {
        for (run, judge) in self.judges.iter().zip(judges) {
            if let Some(judge) = judge {
                self.lock.tell(Activity::Judging, &run.judge.name)?;
                run.judge(self.plan, &self.cells, judge, engine, options.progress)?;
            }
        }
        Ok(())
    }

    /// Analyses what there is and writes the results.
    fn analyze(&self, options: &Options) -> Result<Summary> {
        let cells = || self.cells.iter().map(|planned| &planned.cell);
        let mut rows = Vec::new();
        for cell in cells() {
            rows.extend(rows_of(self.folder, self.plan, cell)?);
        }
        let mut summary = summarise(&rows, self.plan.analysis, &self.plan.families);
        let pairs = pairs::of_cells(self.folder, self.plan, &cells().cloned().collect::<Vec<_>>())?;
        summary.doses = dose_responses(self.plan, &summary.by_condition, self.plan.analysis.level);
        summary.agreement = pairs.iter().map(|pairs| pairs.agreement(self.plan.analysis)).collect();
        let made = self.cells.iter().map(|planned| (&planned.cell, Some(&planned.answers)));
        let method = method(self.plan, self.folder, made);
        let report = Report {
            title: &self.plan.name,
            notice: &options.notice,
            summary: &summary,
            rows: &rows,
            pairs: &pairs,
            method: &method,
            plan: (!self.plan.is_imported()).then_some(self.plan),
        };
        write_results(self.folder.dir(), &report)?;
        Ok(summary)
    }
}
