//! Progress of a run. Only reads, so it works while another process works on the run. Damage is reported, and is not an
//! error.

use std::path::Path;

use serde::Serialize;

use crate::Result;
use crate::study::folder::RunFolder;
use crate::study::judge::Judgement;
use crate::study::judge::remote::account::{self, Charge};
use crate::study::plan::Plan;
use crate::study::plan::cell::{Answer, Cell, cells, questions_of};
use crate::study::plan::judges::{Judge, JudgeKind, Mode};
use crate::study::store::lock::{Activity, Holder, Lock};
use crate::study::store::{self, Survey};

/// Progress of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The process that has locked the whole run, if there is one.
    pub holder: Option<Holder>,
    /// Its cells, in the plan's order.
    pub cells: Vec<CellStatus>,
    /// Its judges, in the plan's order.
    pub judges: Vec<JudgeStatus>,
}

/// What is being done with a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellState {
    /// Nothing yet, or nothing at the moment.
    Waiting,
    /// Its model is fine-tuned.
    FineTuning,
    /// Its answers are sampled.
    Sampling,
    /// A judge is asked about its answers.
    Judging,
    /// Everything that the plan asks for exists.
    Done,
}

impl CellState {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::FineTuning => "fine-tuning",
            Self::Sampling => "sampling",
            Self::Judging => "judging",
            Self::Done => "done",
        }
    }
}

/// How many records exist, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RecordCount {
    /// Existing records.
    pub done: usize,
    /// Records that the plan asks for.
    pub wanted: usize,
    /// Records added per minute, if work is in progress and its speed can be measured.
    pub per_minute: Option<f64>,
    /// Minutes left at that speed.
    pub minutes_left: Option<f64>,
}

/// Progress of one cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellStatus {
    /// "model/condition/format".
    pub cell: String,
    /// What is being done.
    pub state: CellState,
    /// The process that has locked this cell alone.
    pub holder: Option<Holder>,
    /// Whether its fine-tuning is finished; none if it needs none.
    pub tuned: Option<bool>,
    /// Its answers.
    pub answers: RecordCount,
    /// Its judgements by judge, one for each answer and metric.
    pub judged: Vec<JudgedStatus>,
    /// Damaged lines: file, line, and what to do.
    pub damage: Vec<String>,
}

/// Progress of a judge on a cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgedStatus {
    /// The judge's name.
    pub judge: String,
    /// Its judgements.
    #[serde(flatten)]
    pub count: RecordCount,
}

/// Progress and cost of one judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgeStatus {
    /// Its name.
    pub judge: String,
    /// Existing judgements, one for each answer and metric.
    pub judgements: usize,
    /// What a server has charged.
    #[serde(flatten)]
    pub charged: Charge,
}

/// The progress of the run in `dir`.
///
/// # Errors
/// `Error::File` if the folder holds no run; `Error::Line` for a damaged charge; `Error::Io`.
pub fn status(dir: &Path) -> Result<Status> {
    let folder = RunFolder::new(dir);
    let plan = folder.outline()?;
    let questions = questions_of(&plan)?;
    // Read before the records: a process that finishes in between is still reported as the one that did the work.
    let holder = Lock::holder(dir)?;
    let mut statuses = Vec::new();
    for cell in &cells(&plan, &questions)? {
        statuses.push(of_cell(&folder, &plan, cell, holder.as_ref())?);
    }
    // A judge takes the cells one after the other, unless it has them all in batches.
    let one_by_one =
        |judge: &Judge| !matches!(&judge.kind, JudgeKind::OpenAi(openai) if openai.mode == Mode::Batch);
    if holder
        .as_ref()
        .is_some_and(|holder| plan.judges.iter().any(|j| j.name == holder.what && one_by_one(j)))
    {
        statuses
            .iter_mut()
            .filter(|status| status.state == CellState::Judging)
            .skip(1)
            .for_each(CellStatus::wait);
    }
    let judge = |(i, judge): (usize, &Judge)| {
        let judgements = statuses.iter().map(|status| status.judged[i].count.done).sum();
        let charged = account::total(&folder.account(&judge.name))?;
        Ok(JudgeStatus { judge: judge.name.clone(), judgements, charged })
    };
    let judges = plan.judges.iter().enumerate().map(judge).collect::<Result<_>>()?;
    Ok(Status { holder, cells: statuses, judges })
}

impl Status {
    /// Whether everything that the plan asks for exists.
    pub fn is_done(&self) -> bool {
        self.cells.iter().all(|status| status.state == CellState::Done)
    }
}

impl CellStatus {
    /// Marks the cell as waiting for its turn.
    fn wait(&mut self) {
        self.state = CellState::Waiting;
        self.judged
            .iter_mut()
            .for_each(|judged| (judged.count.per_minute, judged.count.minutes_left) = (None, None));
    }
}

impl RecordCount {
    /// `measured`: whether records are being made now.
    fn new<K>(survey: &Survey<K>, wanted: usize, measured: bool) -> Self {
        let done = survey.keys.len();
        let per_minute = survey.per_minute.filter(|_| measured);
        let minutes_left = per_minute.map(|speed| wanted.saturating_sub(done) as f64 / speed);
        Self { done, wanted, per_minute, minutes_left }
    }
}

fn of_cell(folder: &RunFolder, plan: &Plan, cell: &Cell, of_run: Option<&Holder>) -> Result<CellStatus> {
    let id = cell.id();
    let own = if of_run.is_none() { Lock::holder(&folder.answers(cell))? } else { None };
    let holder = of_run.or(own.as_ref());
    let here = |activity: Activity, what: &str| {
        holder.is_some_and(|holder| holder.step == activity && holder.what == what)
    };
    let survey = store::survey::<Answer>(&folder.answers(cell))?;
    // Imported cells want no more than they have.
    let wanted = |id: &str, sample: usize| {
        cell.model.path.is_some() || survey.keys.contains(&(id.to_string(), sample))
    };
    let samples: Vec<_> =
        cell.samples(plan).filter(|(question, sample)| wanted(&question.id, *sample)).collect();
    let answers = RecordCount::new(&survey, samples.len(), here(Activity::Sampling, &id));
    let mut damage = survey.damage;
    let (mut judged, mut judging) = (Vec::new(), false);
    for judge in &plan.judges {
        let survey = store::survey::<Judgement>(&folder.judgements(&judge.name, cell))?;
        let wanted = match judge.kind {
            JudgeKind::Imported(_) => survey.keys.len(),
            JudgeKind::OpenAi(_) | JudgeKind::Local(_) => {
                samples.iter().map(|(q, _)| q.judge_prompts.len()).sum()
            }
        };
        let turn = here(Activity::Judging, &judge.name) && survey.keys.len() < wanted;
        judging |= turn;
        judged
            .push(JudgedStatus { judge: judge.name.clone(), count: RecordCount::new(&survey, wanted, turn) });
        damage.extend(survey.damage);
    }
    let complete = |count: &RecordCount| count.done >= count.wanted;
    let state = if here(Activity::FineTuning, &id) {
        CellState::FineTuning
    } else if here(Activity::Sampling, &id) {
        CellState::Sampling
    } else if judging {
        CellState::Judging
    } else if complete(&answers) && judged.iter().all(|judged| complete(&judged.count)) && damage.is_empty() {
        CellState::Done
    } else {
        CellState::Waiting
    };
    let tuned = cell.tuned.tuning.as_ref().map(|_| folder.tuning_manifest(cell).exists());
    Ok(CellStatus { cell: id, state, holder: own, tuned, answers, judged, damage })
}
