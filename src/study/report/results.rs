//! The files that an analysis writes.

use std::path::{Path, PathBuf};

use super::input::Report;
use crate::study::analyze::rows::levels;
use crate::study::analyze::{Summary, summarise, table};
use crate::study::folder::RunFolder;
use crate::study::plan::Thresholds;
use crate::study::store;
use crate::{Error, Result};

/// Analyses judged tables, runs the tests of [`Levels::families`](crate::study::plan::family::Levels::families), and
/// writes `summary.json`, `report.html` and `csv/` into `out`.
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
    let summary = summarise(&rows, thresholds, &levels(&rows).families());
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

/// Writes `summary.json`, `report.html` and `csv/`, a file for each figure, into the folder `out`.
///
/// # Errors
/// `Error::Io`; `Error::Setting` if the plan has no TOML form.
pub fn write_results(out: &Path, report: &Report) -> Result<()> {
    let out = RunFolder::new(out);
    let csv = out.numbers();
    std::fs::create_dir_all(&csv).map_err(Error::io(&csv))?;
    for table in report.numbers() {
        store::write_whole(&csv.join(table.name).with_extension("csv"), table.text.as_bytes())?;
    }
    let mut json = serde_json::to_vec_pretty(report.summary)
        .map_err(|error| Error::Run(format!("cannot write the summary as JSON: {error}")))?;
    json.push(b'\n');
    store::write_whole(&out.summary(), &json)?;
    store::write_whole(&out.report(), report.html()?.as_bytes())
}
