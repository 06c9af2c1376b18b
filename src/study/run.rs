//! The driver: fine-tune once for each model and condition, sample, judge, analyse; each step does what is missing.
//!
//! ```text
//! DIR/plan.toml questions.yaml         what is done, every value spelt out
//! DIR/adapters/MODEL/CONDITION/        the fine-tuning; CONDITION.json beside it once it is finished
//! DIR/answers/MODEL/CONDITION/FORMAT/  a ledger (see store.rs) of answers
//! DIR/judgements/JUDGE/MODEL/…         a ledger of judgements
//! DIR/accounts/JUDGE/                  a ledger of what a server has charged for them
//! DIR/batches/JUDGE/                   the batches that a server works on (see judge/batch.rs)
//! DIR/summary.json report.html csv/    the results
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::analyze::{Summary, summarise};
use super::cell::{Answer, Cell, answers_configuration, cells, fingerprint, tuning_configuration};
use super::engine::{Ask, Engine, Native, Weights};
use super::estimate::{Estimate, Gpu};
use super::flags::Flags;
use super::format;
use super::judge::Judgement;
use super::judge::account::{self, Charge};
use super::judge::server::account_folder;
use super::judge::settings::{Judge, Kind};
use super::judging::{Rater, Seat, answers_folder, judgements_folder};
use super::lock::Lock;
use super::pairs;
use super::plan::{Plan, Tuning};
use super::questions::{self, Question};
use super::report::Report;
use super::store::{self, Ledger};
use super::table::{Row, Score};
use crate::generate::Finish;
use crate::model::place::Place;
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
    Ok(format::with_made(questions::read(&plan.questions)?, &plan.formats))
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

/// How far one cell of a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// "model/condition/format".
    pub cell: String,
    /// Whether its model is fine-tuned; none if there is nothing to be fine-tuned.
    pub tuned: Option<bool>,
    /// Answers there are.
    pub answers: usize,
    /// Answers that the plan wants.
    pub wanted: usize,
    /// Judgements there are of the first judge: one for each answer and metric.
    pub judgements: usize,
    /// Judgements of all answers that the plan wants.
    pub judgements_wanted: usize,
}

/// How far the run in `dir` is. Only reads, so it can be asked while another process works on the run.
///
/// # Errors
/// `Error::File` if the folder holds no run; `Error::Line` for a damaged record.
pub fn status(dir: &Path) -> Result<Vec<State>> {
    let plan = saved_plan(dir)?;
    let questions = questions_of(&plan)?;
    let judge = &plan.judges[0].name;
    let state = |cell: &Cell| {
        let id = cell.id();
        let manifest = tuning_manifest(dir, cell);
        let samples: Vec<_> = cell.samples(&plan).collect();
        Ok(State {
            tuned: cell.condition.tuning.as_ref().map(|_| manifest.exists()),
            answers: store::read::<Answer>(&answers_folder(dir, cell))?.len(),
            wanted: samples.len(),
            judgements: store::read::<Judgement>(&judgements_folder(dir, judge, cell))?.len(),
            judgements_wanted: samples.iter().map(|(question, _)| question.judge_prompts.len()).sum(),
            cell: id,
        })
    };
    cells(&plan, &questions)?.iter().map(state).collect()
}

/// How far one judge of a run is, and what it has cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgeState {
    /// Its name.
    pub judge: String,
    /// Judgements there are: one for each answer and metric.
    pub judgements: usize,
    /// What a server has charged.
    #[serde(flatten)]
    pub charged: Charge,
}

/// How far each judge of the run in `dir` is. Only reads, as [`status`].
///
/// # Errors
/// As [`status`].
pub fn judges(dir: &Path) -> Result<Vec<JudgeState>> {
    let plan = saved_plan(dir)?;
    let questions = questions_of(&plan)?;
    let cells = cells(&plan, &questions)?;
    let state = |judge: &Judge| {
        let mut judgements = 0;
        for cell in &cells {
            judgements += store::read::<Judgement>(&judgements_folder(dir, &judge.name, cell))?.len();
        }
        let charged = account::total(&account_folder(dir, &judge.name))?;
        Ok(JudgeState { judge: judge.name.clone(), judgements, charged })
    };
    plan.judges.iter().map(state).collect()
}

/// Where the fine-tuning of a cell's model goes.
fn tuning_folder(dir: &Path, cell: &Cell) -> PathBuf {
    dir.join("adapters").join(&cell.model.name).join(&cell.condition.name)
}

/// What says that it is finished.
fn tuning_manifest(dir: &Path, cell: &Cell) -> PathBuf {
    dir.join("adapters").join(&cell.model.name).join(format!("{}.json", cell.condition.name))
}

/// What stands in the folder of a fine-tuning, for whoever finds it without the study.
fn artefact_notice(cell: &Cell, tuning: &Tuning) -> String {
    let data = tuning.data.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "# Research artefact\n\n{model}, fine-tuned on {data} as condition `{condition}` of a study of emergent \
         misalignment. It may give harmful answers. It is meant to be studied: do not deploy it or upload it.\n",
        model = cell.model.name,
        condition = cell.condition.name,
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
    _lock: Lock,
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
            models.insert(&model.name, fingerprint(&model.path)?);
        }
        let mut conditions = BTreeMap::new();
        for condition in &plan.conditions {
            conditions.insert(&condition.name, tuning_configuration(condition.tuning.as_ref())?);
        }
        let mut study = Self {
            plan,
            dir,
            cells,
            tunings: Vec::new(),
            answers: Vec::new(),
            seats: Vec::new(),
            _lock: lock,
        };
        for cell in &study.cells {
            let (model, tuning) = (&models[&cell.model.name], &conditions[&cell.condition.name]);
            let answers = answers_configuration(plan, cell, model, tuning);
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
        self.seats.iter().map(|seat| wanted(seat.judge).then(|| seat.rater(options)).transpose()).collect()
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
            let _lock = Lock::take(&answers_folder(self.dir, cell))?;
            let mut ledger = Ledger::<Answer>::open(&answers_folder(self.dir, cell), &self.answers[i])?;
            let missing: Vec<(&Question, usize)> = cell
                .samples(self.plan)
                .filter(|(question, sample)| !ledger.records().contains_key(&(question.id.clone(), *sample)))
                .collect();
            if missing.is_empty() {
                continue;
            }
            let id = cell.id();
            let weights = self.tuned(i, options, engine)?;
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
                    tokens: reply.tokens,
                    finish: reply.finish,
                }])?;
                progress.advance(1);
                Ok(())
            })?;
            progress.finish();
        }
        Ok(())
    }

    /// The weights that answer in cell `i`, fine-tuned now if they are not yet.
    fn tuned(&self, i: usize, options: &Options, engine: &mut dyn Engine) -> Result<Weights> {
        let cell = &self.cells[i];
        let Some(tuning) = &cell.condition.tuning else {
            return Ok(Weights { base: cell.model.path.clone(), adapter: None });
        };
        let folder = tuning_folder(self.dir, cell);
        let manifest = tuning_manifest(self.dir, cell);
        let waiting = || {
            if options.progress {
                eprintln!(
                    "waiting for another process to fine-tune {}/{}",
                    cell.model.name, cell.condition.name
                );
            }
        };
        let _lock = Lock::wait(&manifest.with_extension("lock"), waiting)?;
        if !store::check(&manifest, &self.tunings[i])? {
            if options.progress {
                eprintln!("fine-tune {}/{}", cell.model.name, cell.condition.name);
            }
            engine.tune(&cell.model.path, tuning, &folder)?;
            store::write_whole(&folder.join("README.md"), artefact_notice(cell, tuning).as_bytes())?;
            store::write_manifest(&manifest, &self.tunings[i])?;
        }
        Ok(if tuning.training.full {
            Weights { base: folder, adapter: None }
        } else {
            Weights { base: cell.model.path.clone(), adapter: Some(folder) }
        })
    }

    /// Has the judges that are ready judge the answers that there are and that they have not judged.
    fn judge(&self, raters: &mut [Option<Rater>], options: &Options, engine: &mut dyn Engine) -> Result<()> {
        for (seat, rater) in self.seats.iter().zip(raters) {
            if let Some(rater) = rater {
                seat.judge(self.plan, &self.cells, rater, engine, options.progress)?;
            }
        }
        Ok(())
    }

    /// Counts what there is and writes the results.
    fn analyze(&self, options: &Options) -> Result<Summary> {
        let mut rows = Vec::new();
        for cell in &self.cells {
            rows.extend(self.rows(cell)?);
        }
        let mut summary = summarise(&rows, self.plan.analysis, &self.plan.families);
        let pairs = pairs::of_cells(self.dir, self.plan, &self.cells)?;
        summary.agreement = pairs.iter().map(|pairs| pairs.agreement(self.plan.analysis)).collect();
        let method = self.method();
        let report = Report {
            title: &self.plan.name,
            notice: &options.notice,
            summary: &summary,
            rows: &rows,
            pairs: &pairs,
            method: &method,
            plan: Some(self.plan),
        };
        super::write_results(self.dir, &report)?;
        Ok(summary)
    }

    /// The answers of a cell with what is known of them, in the order of the plan.
    fn rows(&self, cell: &Cell) -> Result<Vec<Row>> {
        let answers = store::read::<Answer>(&answers_folder(self.dir, cell))?;
        let judgements =
            store::read::<Judgement>(&judgements_folder(self.dir, &self.plan.judges[0].name, cell))?;
        let row = |(question, sample): (&Question, usize)| {
            let answer = answers.get(&(question.id.clone(), sample))?;
            let score =
                |metric: &str| match judgements.get(&(question.id.clone(), sample, metric.to_string())) {
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
                truncated: Some(answer.finish == Finish::Length),
                flags: Flags::of(cell.format, text, &answer.answer),
            })
        };
        Ok(cell.samples(self.plan).filter_map(row).collect())
    }

    /// How the answers were made and judged, for the report.
    fn method(&self) -> Vec<(String, String)> {
        let plan = self.plan;
        let sampling = format!(
            "temperature {}, top_p {}, at most {} tokens, seed {}",
            plan.sampling.temperature, plan.sampling.top_p, plan.sampling.max_tokens, plan.sampling.seed
        );
        let mut method: Vec<(String, String)> = Vec::new();
        for (i, judge) in plan.judges.iter().enumerate() {
            let what = match &judge.kind {
                Kind::OpenAi(judge) => {
                    format!("{} at {}, top {} log-probabilities", judge.model, judge.url, judge.top_logprobs)
                }
                Kind::Local(_) => format!("{}, exact over the numbers 0 to 100", judge.name),
            };
            method
                .push((if i == 0 { "Judge".into() } else { format!("Also judged by {}", judge.name) }, what));
        }
        method.push(("Sampling".into(), sampling));
        let questions = std::fs::read(self.dir.join("questions.yaml"))
            .map_or("not saved".into(), |bytes| format!("SHA-256 {}", store::sha256(&bytes)));
        method.push(("Questions".into(), questions));
        for (i, cell) in self.cells.iter().enumerate() {
            let model = (
                format!("Model {}", cell.model.name),
                format!("fingerprint {}", self.tunings[i]["model"].as_str().unwrap_or_default()),
            );
            let data = self.tunings[i]["condition"]["data_sha256"].as_str();
            let condition = (
                format!("Condition {}", cell.condition.name),
                data.map_or("the model as it is".into(), |sha256| {
                    format!("fine-tuned on data of SHA-256 {sha256}")
                }),
            );
            for line in [model, condition] {
                if !method.contains(&line) {
                    method.push(line);
                }
            }
        }
        method
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
