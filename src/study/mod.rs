//! The study: plan → cells → fine-tune → sample → judge → statistics → report. No tensors here.
//!
//! | file | holds |
//! |---|---|
//! | `plan.rs` `questions.rs` `format.rs` | what is to be done: TOML and YAML → settings; the forms of answers |
//! | `steering.rs` | directions that act while a condition's answers are drawn |
//! | `preset.rs` (`preset.toml`) | ready-made plans |
//! | `estimate.rs` | what a plan will take |
//! | `run.rs` `cell.rs` | the driver; the units of its work and what their results depend on |
//! | `listing.rs` | cells for those who spread them over machines |
//! | `judging.rs` | the judging step: every judge over every answer |
//! | `engine.rs` | the seam to training and sampling |
//! | `store.rs` `line.rs` `merge.rs` | what has been done, on disk; its lines and their checksums; several runs → one |
//! | `judge/` | distributions → scores; an `OpenAI`-compatible server or a model in this engine as the judge |
//! | `lock.rs` `status.rs` | who may work on what of a run, and who does; how far it is |
//! | `import.rs` | judged answers from elsewhere → a run |
//! | `export/` | a run → a table, a data set |
//! | `method.rs` | how a run was made, for reports and data sets |
//! | `pairs.rs` `label.rs` | two raters on the same answers; a sample for people to label |
//! | `table.rs` `flags.rs` | judged answers as rows; what can be said of an answer without a judge |
//! | `contrast.rs` | two sets of a run's answers, for directions that tell them apart |
//! | `family.rs` | the tests that a plan declares |
//! | `analyze/` `stats/` | rows → counts, rates with intervals, tests; the statistics that this takes |
//! | `report/` | `report.html`: tables, figures, answers; `csv/`: the numbers behind them |
//! | `demo.rs` | a study in miniature that comes inside the program |

pub mod analyze;
pub mod cell;
pub mod contrast;
pub mod demo;
pub mod engine;
pub mod estimate;
pub mod export;
pub mod family;
pub mod flags;
pub mod format;
pub mod import;
pub mod judge;
mod judging;
pub mod label;
mod line;
pub mod listing;
pub mod lock;
pub mod merge;
mod method;
pub mod pairs;
pub mod plan;
pub mod preset;
pub mod questions;
pub mod report;
pub mod run;
pub mod stats;
pub mod status;
pub mod steering;
pub mod store;
pub mod table;

use std::path::{Path, PathBuf};

use self::analyze::Summary;
use self::family::Levels;
use self::plan::Thresholds;
use self::report::Report;

pub use self::plan::Plan;
pub use self::run::{Options, run};
use crate::{Error, Result};

/// Counts judged tables, runs the tests of [`Levels::families`], and writes `summary.json`, `report.html` and `csv/`
/// into `out`.
///
/// # Errors
/// Those of [`table::read`]; `Error::Io` if the results cannot be written.
pub fn analyze_tables(files: &[PathBuf], out: &Path, thresholds: Thresholds) -> Result<Summary> {
    let mut rows = Vec::new();
    let mut method = Vec::new();
    for file in files {
        let read = table::read(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(file).map_err(Error::io(file))?;
        method.push((name, format!("{} answers, SHA-256 {}", read.len(), store::sha256(&bytes))));
        rows.extend(read);
    }
    let summary = analyze::summarise(&rows, thresholds, &Levels::of(&rows).families());
    let title = "Judged answers";
    write_results(
        out,
        &Report {
            title,
            notice: "",
            summary: &summary,
            rows: &rows,
            pairs: &[],
            method: &method,
            plan: None,
        },
    )?;
    Ok(summary)
}

/// Writes `summary.json`, `report.html` and, a file for each figure, `csv/` into `out`.
fn write_results(out: &Path, report: &Report) -> Result<()> {
    let csv = out.join("csv");
    std::fs::create_dir_all(&csv).map_err(Error::io(&csv))?;
    for table in report.numbers() {
        store::write_whole(&csv.join(table.name).with_extension("csv"), table.text.as_bytes())?;
    }
    let mut json = serde_json::to_vec_pretty(report.summary)
        .map_err(|error| Error::Run(format!("cannot write the summary as JSON: {error}")))?;
    json.push(b'\n');
    store::write_whole(&out.join("summary.json"), &json)?;
    store::write_whole(&out.join("report.html"), report.html()?.as_bytes())
}
