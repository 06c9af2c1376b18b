//! A sample of a run's answers for people to label: writes the table and reads the labels back.
//!
//! The sample is stratified: the strata are the cells, each split by whether the first judge found the answer
//! misaligned, and the sample takes from each in turn, so that rare answers are included. It is therefore not
//! representative: a rate in it does not estimate the rate in the run. The table is blind: its order is random, and its
//! ids reveal nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::scores::{AnswerKey, Scores};
use crate::study::csv;
use crate::study::folder::RunFolder;
use crate::study::judge::Judgement;
use crate::study::plan::Plan;
use crate::study::plan::cell::{Answer, Cell, cells, questions_of};
use crate::study::plan::questions::METRICS;
use crate::study::store::{self, sha256};
use crate::{Error, Result};

/// Keeps the filled table `labels` with the run in `dir`.
///
/// # Errors
/// `Error::Io`.
pub fn keep(dir: &Path, labels: &Path) -> Result<()> {
    store::write_whole(&RunFolder::new(dir).labels(), &std::fs::read(labels).map_err(Error::io(labels))?)
}

/// The answer's id in the table.
fn id((cell, question, sample): &AnswerKey) -> String {
    sha256(format!("{cell}\n{question}\n{sample}").as_bytes())[..16].to_string()
}

/// A sort key for a random order that `seed` determines.
fn place(seed: u64, what: &str) -> String {
    sha256(format!("{seed}\n{what}").as_bytes())
}

/// Draws `n` answers of the run in `dir` (all, if there are fewer) and returns a CSV table with the columns id, question
/// and answer, and the empty columns aligned and coherent. The same `seed` draws the same answers.
///
/// # Errors
/// `Error::File` if the folder holds no run or no answers; `Error::Line` for a damaged record.
pub fn draw(dir: &Path, n: usize, seed: u64) -> Result<String> {
    let run = RunFolder::new(dir);
    let plan = run.plan()?;
    let questions = questions_of(&plan)?;
    let mut strata = BTreeMap::<String, Vec<(String, String)>>::new();
    for cell in &cells(&plan, &questions)? {
        let answers = store::read::<Answer>(&run.answers(cell))?;
        let judgements = store::read::<Judgement>(&run.judgements(&plan.judges[0].name, cell))?;
        for (question, sample) in cell.samples(&plan) {
            let Some(answer) = answers.get(&(question.id.clone(), sample)) else { continue };
            let score = |metric: &str| judgements.get(&(question.id.clone(), sample, metric.into()))?.score;
            let coherent = score("coherent").is_some_and(|score| score >= plan.analysis.coherent_at_least);
            let misaligned = coherent && score("aligned").is_some_and(|s| s < plan.analysis.misaligned_below);
            let id = id(&(cell.id(), question.id.clone(), sample));
            let line = csv::quoted(&[&id, question.paraphrase(sample), &answer.answer]) + ",,";
            strata.entry(format!("{} {misaligned}", cell.id())).or_default().push((place(seed, &id), line));
        }
    }
    let mut strata: Vec<_> = strata.into_iter().map(|(name, lines)| (place(seed, &name), lines)).collect();
    if strata.is_empty() {
        return Err(Error::file(dir, "has no answers yet; emlab study run makes them"));
    }
    strata.sort();
    for (_, lines) in &mut strata {
        lines.sort();
    }
    let mut drawn = Vec::new();
    while drawn.len() < n && strata.iter().any(|(_, lines)| !lines.is_empty()) {
        drawn.extend(strata.iter_mut().filter_map(|(_, lines)| lines.pop()));
    }
    drawn.truncate(n);
    drawn.sort();
    let mut table = String::from("id,question,answer,aligned,coherent\n");
    for (_, line) in drawn {
        // Writing to a string does not fail.
        let _ = writeln!(table, "{line}");
    }
    Ok(table)
}

/// Reads a table whose columns aligned and coherent have been filled, completely or in part, with numbers 0..=100.
/// Returns the labels by metric.
///
/// # Errors
/// `Error::Line` for a malformed line, an invalid number, or an id that does not belong to this run.
pub fn read(run: &RunFolder, plan: &Plan, cells: &[Cell], path: &Path) -> Result<BTreeMap<String, Scores>> {
    let mut known = BTreeMap::new();
    for cell in cells {
        for (question, sample) in store::read::<Answer>(&run.answers(cell))?.into_keys() {
            let key = (cell.id(), question, sample);
            known.insert(id(&key), key);
        }
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut records = csv::records(&text, path)?.into_iter();
    let header = records.next().ok_or_else(|| Error::file(path, "is empty; expected a header line"))?.fields;
    let column = |name: &str| {
        let at = header.iter().position(|column| column.trim().eq_ignore_ascii_case(name));
        at.ok_or_else(|| Error::line(path, 1, format!("no column {name:?}; expected id, aligned, coherent")))
    };
    let (ids, columns) = (column("id")?, [column(METRICS[0])?, column(METRICS[1])?]);
    let mut labels = BTreeMap::<String, Scores>::new();
    for csv::Record { line, fields } in records {
        let field = |at: usize| fields.get(at).map_or("", |field| field.trim());
        let unknown = || {
            let what = format!("id {:?} does not belong to an answer of the run {}", field(ids), plan.name);
            Error::line(path, line, what)
        };
        let key = known.get(field(ids)).ok_or_else(unknown)?;
        for (metric, at) in METRICS.into_iter().zip(columns) {
            if field(at).is_empty() {
                continue;
            }
            let number = field(at).parse().ok().filter(|number| (0.0..=100.0).contains(number));
            let wrong = || {
                let what = format!("{metric} = {:?} is not a number between 0 and 100", field(at));
                Error::line(path, line, what)
            };
            let label: f64 = number.ok_or_else(wrong)?;
            labels.entry(metric.into()).or_default().insert(key.clone(), Some(label));
        }
    }
    if labels.is_empty() {
        return Err(Error::file(path, "holds no labels: the columns aligned and coherent are empty"));
    }
    Ok(labels)
}
