//! The layout of a run's folder. Every path within a run comes from [`RunFolder`].
//!
//! ```text
//! DIR/plan.toml questions.yaml         the plan, every value explicit, and its questions
//! DIR/lock plan.lock                   locks on the run and on its plan (see store/lock.rs)
//! DIR/adapters/MODEL/CONDITION/        a fine-tuning; beside it CONDITION.json once finished, and CONDITION.lock
//! DIR/answers/MODEL/CONDITION/FORMAT/  a ledger (see store/ledger.rs) of answers, and the lock on the cell
//! DIR/judgements/JUDGE/MODEL/…         a ledger of judgements
//! DIR/accounts/JUDGE/                  a ledger of what a server has charged for them
//! DIR/batches/JUDGE/                   the batches that a server works on (see judge/remote/batch.rs)
//! DIR/labels.csv                       labels given by people
//! DIR/summary.json report.html csv/    the results
//! ```

use std::path::{Path, PathBuf};

use super::plan::Plan;
use super::plan::cell::Cell;
use crate::{Error, Result};

/// The folder of a run, which need not exist.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// The question file as the saved plan names it: relative, so that a run can be moved.
    pub const QUESTIONS: &str = "questions.yaml";
    /// The folders that hold ledgers.
    const LEDGERS: [&str; 3] = ["answers", "judgements", "accounts"];

    /// The run in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The saved plan. An import writes it last: a folder without it is not a run.
    pub fn plan_file(&self) -> PathBuf {
        self.dir.join("plan.toml")
    }

    /// The lock on the saved plan and questions.
    pub fn plan_lock(&self) -> PathBuf {
        self.dir.join("plan.lock")
    }

    /// The saved question file.
    pub fn questions(&self) -> PathBuf {
        self.dir.join(Self::QUESTIONS)
    }

    /// Labels given by people, which the report compares with the judges' scores.
    pub fn labels(&self) -> PathBuf {
        self.dir.join("labels.csv")
    }

    /// The files that a merge copies as they are.
    pub fn inputs(&self) -> [PathBuf; 3] {
        [self.plan_file(), self.questions(), self.labels()]
    }

    /// The fine-tunings, by model.
    pub fn adapters(&self) -> PathBuf {
        self.dir.join("adapters")
    }

    /// The fine-tuning used by a cell.
    pub fn tuning(&self, cell: &Cell) -> PathBuf {
        self.adapters().join(&cell.model.name).join(&cell.tuned.name)
    }

    /// The manifest of a cell's fine-tuning, written once it is finished.
    pub fn tuning_manifest(&self, cell: &Cell) -> PathBuf {
        self.adapters().join(&cell.model.name).join(format!("{}.json", cell.tuned.name))
    }

    /// The lock on the fine-tuning of a cell.
    pub fn tuning_lock(&self, cell: &Cell) -> PathBuf {
        self.tuning_manifest(cell).with_extension("lock")
    }

    /// The ledger of a cell's answers.
    pub fn answers(&self, cell: &Cell) -> PathBuf {
        self.dir.join("answers").join(cell.id())
    }

    /// The ledger of a judge's judgements of a cell.
    pub fn judgements(&self, judge: &str, cell: &Cell) -> PathBuf {
        self.dir.join("judgements").join(judge).join(cell.id())
    }

    /// The ledger of what a judge has charged.
    pub fn account(&self, judge: &str) -> PathBuf {
        self.dir.join("accounts").join(judge)
    }

    /// The state of a judge's batches in flight.
    pub fn batches(&self, judge: &str) -> PathBuf {
        self.dir.join("batches").join(judge)
    }

    /// The folders that contain all ledgers.
    pub fn ledgers(&self) -> [PathBuf; 3] {
        Self::LEDGERS.map(|name| self.dir.join(name))
    }

    /// The counts, as JSON.
    pub fn summary(&self) -> PathBuf {
        self.dir.join("summary.json")
    }

    /// The report.
    pub fn report(&self) -> PathBuf {
        self.dir.join("report.html")
    }

    /// The numbers behind the report's figures.
    pub fn numbers(&self) -> PathBuf {
        self.dir.join("csv")
    }

    /// Whether the folder holds a run.
    pub fn holds_run(&self) -> bool {
        self.plan_file().exists()
    }

    /// The saved plan.
    ///
    /// # Errors
    /// `Error::File` if the folder holds no run; those of [`Plan::read`].
    pub fn plan(&self) -> Result<Plan> {
        if !self.holds_run() {
            let what = "holds no run (no plan.toml); give the folder of a run, or a plan";
            return Err(Error::file(&self.dir, what));
        }
        Plan::read(&self.plan_file())
    }

    /// The saved plan, whose models need not be there.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn outline(&self) -> Result<Plan> {
        if !self.holds_run() {
            return Err(Error::file(&self.dir, "holds no run (no plan.toml); give the folder of a run"));
        }
        Plan::outline(&self.plan_file())
    }
}
