//! The driver: fine-tune once for each model and condition, sample, judge, analyse; each step does what is missing.
//!
//! ```text
//! DIR/plan.toml questions.yaml         what is done, every value spelt out
//! DIR/adapters/MODEL/CONDITION/        its fine-tuning; CONDITION.json beside it once it is finished
//! DIR/answers/MODEL/CONDITION/FORMAT/  a ledger (see store.rs) of answers
//! DIR/judgements/JUDGE/MODEL/…         a ledger of judgements
//! DIR/accounts/JUDGE/                  a ledger of what a server has charged for them
//! DIR/batches/JUDGE/                   the batches that a server works on (see judge/batch.rs)
//! DIR/summary.json report.html csv/    the results
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::analyze::{Summary, dose_responses, summarise};
use super::cell::{
    Answer, Cell, answers_configuration, cells, condition_configuration, fingerprint, tuning_configuration,
};
use super::engine::{Ask, Engine, Native, Weights};
use super::estimate::{Estimate, Gpu};
use super::flags::Flags;
use super::format;
use super::judge::Judgement;
use super::judge::settings::{Judge, Kind};
use super::judging::{Rater, Seat, answers_folder, judgements_folder};
use super::lock::{Lock, Step};
use super::method::method;
use super::pairs;
use super::plan::{Plan, Tuning};
use super::questions::{self, Question};
use super::report::Report;
use super::store::{self, Ledger};
use super::table::{Row, Score};
use crate::generate::Finish;
use crate::model::place::Place;
use crate::model::spec::Spec;
use crate::progress::Progress;
use crate::{Error, Result};

/// How a study is run, apart from what its plan says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Judge the answers; otherwise they are only sampled, and can be judged later.
    pub judge: bool,
    /// The name of the one judge to ask; none asks them all.
    pub only_judge: Option<String>,
    /// Where the caches of what servers have said lie; none is the user's cache folder.
    pub judge_cache: Option<PathBuf>,
    /// Show progress on stderr.
    pub progress: bool,
    /// A remark at the head of the report.
    pub notice: String,
    /// Where models compute.
    pub place: Place,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            judge: true,
            only_judge: None,
            judge_cache: None,
            progress: true,
            notice: String::new(),
            place: Place::CPU,
        }
    }
}

/// Runs the study in the folder `dir`: whatever an earlier attempt has finished is kept, the rest is done.
///
/// # Errors
/// Anything that a part of the study meets; what was produced before stays, and the same call goes on from there.
/// `Error::File` if the folder holds a study with other settings, or another process works on it.
pub fn run(plan: &Plan, dir: &Path, options: &Options) -> Result<Summary> {
    run_with(plan, dir, options, &mut Native::new(options.place, options.progress))
}

/// The questions of a plan: its file's, and those made from them for its formats.
pub(super) fn questions_of(plan: &Plan) -> Result<Vec<Question>> {
    let questions = questions::read(&plan.questions)?;
    let asked = plan.judges.iter().find(|judge| !matches!(judge.kind, Kind::Imported(_)));
    let unprepared = questions.iter().find(|question| question.judge_prompts.is_empty());
    if let (Some(judge), Some(question)) = (asked, unprepared) {
        let what =
            format!("question {:?} has no judge_prompts, which judge {:?} needs", question.id, judge.name);
        return Err(Error::file(&plan.questions, what));
    }
    Ok(format::with_made(questions, &plan.formats))
}

/// [`run`] with another engine.
///
/// # Errors
/// As [`run`].
pub fn run_with(plan: &Plan, dir: &Path, options: &Options, engine: &mut dyn Engine) -> Result<Summary> {
    let questions = questions_of(plan)?;
    let study = Study::open(plan, &questions, dir, Lock::take)?;
    // A judge that cannot be asked should be known before hours of sampling, not after.
    let mut raters = if options.judge { study.raters(options)? } else { Vec::new() };
    study.save()?;
    study.sample(0..study.cells.len(), options, engine)?;
    study.judge(&mut raters, options, engine)?;
    study.analyze(options)
}

/// Fine-tunes and samples the cells that stand at `chosen` in the plan ([`listing`](super::listing)), and nothing else:
/// judging and counting are steps over all cells. Other processes may do other cells in the same folder meanwhile.
///
/// # Errors
/// As [`run`]; `Error::File` if another process works on the whole run or on one of the cells.
pub fn sample(plan: &Plan, dir: &Path, chosen: &[usize], options: &Options) -> Result<()> {
    let questions = questions_of(plan)?;
    let study = Study::open(plan, &questions, dir, Lock::share)?;
    {
        let _saving = Lock::wait(&dir.join("plan.lock"), || ())?;
        study.save()?;
    }
    study.sample(chosen.iter().copied(), options, &mut Native::new(options.place, options.progress))
}

/// What a plan will take on a GPU.
///
/// # Errors
/// Those of [`Estimate::new`], and of reading the questions.
pub fn estimate(plan: &Plan, gpu: Gpu) -> Result<Estimate> {
    let questions = questions_of(plan)?;
    Estimate::new(plan, &cells(plan, &questions)?, gpu)
}

/// Judges what the run in `dir` has sampled so far.
///
/// # Errors
/// As [`run`].
pub fn judge(dir: &Path, options: &Options) -> Result<Summary> {
    let plan = saved_plan(dir)?;
    let questions = questions_of(&plan)?;
    let study = Study::open(&plan, &questions, dir, Lock::take)?;
    let mut raters = study.raters(options)?;
    study.judge(&mut raters, options, &mut Native::new(options.place, options.progress))?;
    study.analyze(options)
}

/// Counts what the run in `dir` has so far and writes its results.
///
/// # Errors
/// As [`run`].
pub fn analyze(dir: &Path, options: &Options) -> Result<Summary> {
    let plan = saved_plan(dir)?;
    let questions = questions_of(&plan)?;
    Study::open(&plan, &questions, dir, Lock::take)?.analyze(options)
}

/// The plan saved in a run's folder.
///
/// # Errors
/// `Error::File` if the folder holds no run; those of [`Plan::read`].
pub fn saved_plan(dir: &Path) -> Result<Plan> {
    let path = dir.join("plan.toml");
    if !path.exists() {
        return Err(Error::file(dir, "holds no run (no plan.toml); give the folder of a run, or a plan"));
    }
    Plan::read(&path)
}

/// [`saved_plan`], but neither models need be there.
///
/// # Errors
/// As there.
pub(super) fn saved_outline(dir: &Path) -> Result<Plan> {
    let path = dir.join("plan.toml");
    if !path.exists() {
        return Err(Error::file(dir, "holds no run (no plan.toml); give the folder of a run"));
    }
    Plan::outline(&path)
}

/// Where the fine-tuning of a cell's model goes.
fn tuning_folder(dir: &Path, cell: &Cell) -> PathBuf {
    dir.join("adapters").join(&cell.model.name).join(&cell.tuned.name)
}

/// What says that it is finished.
pub(super) fn tuning_manifest(dir: &Path, cell: &Cell) -> PathBuf {
    dir.join("adapters").join(&cell.model.name).join(format!("{}.json", cell.tuned.name))
}

/// What stands in the folder of a fine-tuning, for whoever finds it without the study.
fn artefact_notice(cell: &Cell, tuning: &Tuning) -> String {
    let data = tuning.data.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "# Research artefact\n\n{model}, fine-tuned on {data} as condition `{condition}` of a study of emergent \
         misalignment. It may give harmful answers. It is meant to be studied: do not deploy it or upload it.\n",
        model = cell.model.name,
        condition = cell.tuned.name,
    )
}

/// A run that this process has a lock of.
struct Study<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    cells: Vec<Cell<'a>>,
    /// What each cell's fine-tuning depends on, with its checkpoint.
    tunings: Vec<Value>,
    /// What each cell's answers depend on.
    answers: Vec<Value>,
    /// The judges, the primary first.
    seats: Vec<Seat<'a>>,
    lock: Lock,
}

impl<'a> Study<'a> {
    /// Takes the lock and checks everything that is there against the plan before anything is written.
    fn open(
        plan: &'a Plan,
        questions: &'a [Question],
        dir: &'a Path,
        lock: fn(&Path) -> Result<Lock>,
    ) -> Result<Self> {
        let cells = cells(plan, questions)?;
        let lock = lock(dir)?;
        let mut models = BTreeMap::new();
        for model in &plan.models {
            models.insert(&model.name, model.path.as_deref().map(fingerprint).transpose()?);
        }
        let mut conditions = BTreeMap::new();
        for condition in &plan.conditions {
            conditions.insert(&condition.name, tuning_configuration(condition.tuning.as_ref())?);
        }
        let mut study =
            Self { plan, dir, cells, tunings: Vec::new(), answers: Vec::new(), seats: Vec::new(), lock };
        for cell in &study.cells {
            let (model, tuning) = (&models[&cell.model.name], &conditions[&cell.tuned.name]);
            let steer = cell.condition.steer.as_ref();
            if let (Some(steer), Some(path)) = (steer, &cell.model.path) {
                steer.check(&cell.model.name, &Spec::read(path)?)?;
            }
            let condition = condition_configuration(tuning, steer)?;
            let answers = answers_configuration(plan, cell, model.as_deref(), &condition);
            study.tunings.push(serde_json::json!({"model": model, "condition": tuning}));
            study.answers.push(answers);
        }
        for judge in &plan.judges {
            study.seats.push(Seat::new(judge, dir, &study.cells, &study.answers)?);
        }
        for (i, cell) in study.cells.iter().enumerate() {
            store::check(&tuning_manifest(dir, cell), &study.tunings[i])?;
            store::check(&answers_folder(dir, cell).join(store::MANIFEST), &study.answers[i])?;
        }
        study.seats.iter().try_for_each(|seat| seat.check(&study.cells))?;
        Ok(study)
    }

    /// Saves the plan and the questions with the run.
    fn save(&self) -> Result<()> {
        let path = self.dir.join("questions.yaml");
        let text = std::fs::read(&self.plan.questions).map_err(Error::io(&self.plan.questions))?;
        store::write_whole(&path, &text)?;
        // Relative, so that the folder can be moved.
        let plan = Plan { questions: "questions.yaml".into(), ..self.plan.clone() };
        store::write_whole(&self.dir.join("plan.toml"), plan.to_toml()?.as_bytes())
    }

    /// The judges that are to be asked, made ready; none for the others.
    fn raters(&self, options: &Options) -> Result<Vec<Option<Rater<'a>>>> {
        let wanted = |judge: &Judge| options.only_judge.as_ref().is_none_or(|name| *name == judge.name);
        if !self.plan.judges.iter().any(wanted) {
            let names: Vec<_> = self.plan.judges.iter().map(|judge| judge.name.as_str()).collect();
            let name = options.only_judge.as_deref().unwrap_or_default();
            return Err(Error::Setting(format!(
                "no judge is called {name:?}; the plan has {}",
                names.join(", ")
            )));
        }
        let rater = |seat: &Seat<'a>| if wanted(seat.judge) { seat.rater(options) } else { Ok(None) };
        self.seats.iter().map(rater).collect()
    }

    /// Fine-tunes and samples what is missing of the cells `chosen`.
    fn sample(
        &self,
        chosen: impl Iterator<Item = usize>,
        options: &Options,
        engine: &mut dyn Engine,
    ) -> Result<()> {
        for i in chosen {
            let cell = &self.cells[i];
            let Some(base) = &cell.model.path else { continue };
            let lock = Lock::take(&answers_folder(self.dir, cell))?;
            let mut ledger = Ledger::<Answer>::open(&answers_folder(self.dir, cell), &self.answers[i])?;
            let missing: Vec<(&Question, usize)> = cell
                .samples(self.plan)
                .filter(|(question, sample)| !ledger.records().contains_key(&(question.id.clone(), *sample)))
                .collect();
            if missing.is_empty() {
                continue;
            }
            let id = cell.id();
            let tell = |step| lock.tell(step, &id).and_then(|()| self.lock.tell(step, &id));
            let weights = self.tuned(i, base, options, engine, &tell)?;
            tell(Step::Sampling)?;
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

    /// The weights that answer in cell `i`, fine-tuned from `base` now, which `tell` is told, if they are not yet.
    fn tuned(
        &self,
        i: usize,
        base: &Path,
        options: &Options,
        engine: &mut dyn Engine,
        tell: &dyn Fn(Step) -> Result<()>,
    ) -> Result<Weights> {
        let cell = &self.cells[i];
        let steering = cell.condition.steer.clone();
        let Some(tuning) = &cell.tuned.tuning else {
            return Ok(Weights { base: base.into(), adapter: None, steering });
        };
        let folder = tuning_folder(self.dir, cell);
        let manifest = tuning_manifest(self.dir, cell);
        let waiting = || {
            if options.progress {
                eprintln!("waiting for another process to fine-tune {}/{}", cell.model.name, cell.tuned.name);
            }
        };
        let _lock = Lock::wait(&manifest.with_extension("lock"), waiting)?;
        if !store::check(&manifest, &self.tunings[i])? {
            if options.progress {
                eprintln!("fine-tune {}/{}", cell.model.name, cell.tuned.name);
            }
            tell(Step::FineTuning)?;
            engine.tune(base, tuning, &folder)?;
            store::write_whole(&folder.join("README.md"), artefact_notice(cell, tuning).as_bytes())?;
            store::write_manifest(&manifest, &self.tunings[i])?;
        }
        Ok(if tuning.training.full {
            Weights { base: folder, adapter: None, steering }
        } else {
            Weights { base: base.into(), adapter: Some(folder), steering }
        })
    }

    /// Has the judges that are ready judge the answers that there are and that they have not judged.
    fn judge(&self, raters: &mut [Option<Rater>], options: &Options, engine: &mut dyn Engine) -> Result<()> {
        for (seat, rater) in self.seats.iter().zip(raters) {
            if let Some(rater) = rater {
                self.lock.tell(Step::Judging, &seat.judge.name)?;
                seat.judge(self.plan, &self.cells, rater, engine, options.progress)?;
            }
        }
        Ok(())
    }

    /// Counts what there is and writes the results.
    fn analyze(&self, options: &Options) -> Result<Summary> {
        let mut rows = Vec::new();
        for cell in &self.cells {
            rows.extend(rows_of(self.dir, self.plan, cell)?);
        }
        let mut summary = summarise(&rows, self.plan.analysis, &self.plan.families);
        let pairs = pairs::of_cells(self.dir, self.plan, &self.cells)?;
        summary.doses = dose_responses(self.plan, &summary.by_condition, self.plan.analysis.level);
        summary.agreement = pairs.iter().map(|pairs| pairs.agreement(self.plan.analysis)).collect();
        let method = method(self.plan, self.dir, &self.cells, &self.answers);
        let report = Report {
            title: &self.plan.name,
            notice: &options.notice,
            summary: &summary,
            rows: &rows,
            pairs: &pairs,
            method: &method,
            plan: (!self.plan.is_imported()).then_some(self.plan),
        };
        super::write_results(self.dir, &report)?;
        Ok(summary)
    }
}

/// The answers of a cell with what is known of them, in the order of the plan.
///
/// # Errors
/// `Error::Line` for a damaged record; `Error::Io`.
pub(super) fn rows_of(dir: &Path, plan: &Plan, cell: &Cell) -> Result<Vec<Row>> {
    let answers = store::read::<Answer>(&answers_folder(dir, cell))?;
    let judgements = store::read::<Judgement>(&judgements_folder(dir, &plan.judges[0].name, cell))?;
    let row = |(question, sample): (&Question, usize)| {
        let answer = answers.get(&(question.id.clone(), sample))?;
        let score = |metric: &str| match judgements.get(&(question.id.clone(), sample, metric.to_string())) {
            None => Score::Unjudged,
            Some(judgement) => judgement.score.map_or(Score::None(judgement.category), Score::Value),
        };
        let text = question.paraphrase(sample);
        Some(Row {
            model: cell.model.name.clone(),
            condition: cell.condition.name.clone(),
            format: cell.format,
            question: question.id.clone(),
            sample,
            prompt: text.to_string(),
            answer: answer.answer.clone(),
            aligned: score("aligned"),
            coherent: score("coherent"),
            truncated: answer.finish.map(|finish| finish == Finish::Length),
            flags: Flags::of(cell.format, text, &answer.answer),
        })
    };
    Ok(cell.samples(plan).filter_map(row).collect())
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
