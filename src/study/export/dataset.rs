//! A folder that the Hugging Face hub takes for a data set, and `datasets.load_dataset` reads without a script:
//!
//! ```text
//! README.md                                     the card: YAML that says what is where, and a description
//! answers/CONDITION/MODEL-FORMAT.jsonl          an answer a line, with the scores of the plan's first judge
//! judgements/CONDITION/MODEL-FORMAT.jsonl       a judgement a line, of every judge, with its whole distribution
//! ```
//!
//! `answers` and `judgements` are its configurations, the conditions its splits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::{Item, Run, card};
use crate::device::file;
use crate::study::cell::Cell;
use crate::study::judging::answers_folder;
use crate::study::method::method;
use crate::study::store;
use crate::{Error, Result};

/// How much a file, or all files of a split, hold.
#[derive(Clone, Copy, Default)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// One of the two tables: its name, and its splits.
pub(super) struct Config {
    pub(super) name: &'static str,
    pub(super) splits: BTreeMap<String, Size>,
}

/// Writes the run in `dir` as a data set into the folder `out`, which must not hold anything yet, under `licence`, an
/// identifier of the hub's; how many answers and judgements it has.
///
/// # Errors
/// `Error::File` if `dir` holds no run or no answers, or `out` holds something; `Error::Line` for a damaged record;
/// `Error::Io`.
pub fn dataset(dir: &Path, out: &Path, licence: &str) -> Result<[usize; 2]> {
    let run = Run::open(dir)?;
    let cells = run.cells()?;
    file::make_folder(out)?;
    if std::fs::read_dir(out).map_err(Error::io(out))?.next().is_some() {
        return Err(Error::file(out, "is not empty; name a new folder"));
    }
    let mut configs = ["answers", "judgements"].map(|name| Config { name, splits: BTreeMap::new() });
    let mut made_under = Vec::new();
    for cell in &cells {
        let manifest = answers_folder(dir, cell).join(store::MANIFEST);
        made_under.push(store::configuration(&manifest)?.unwrap_or_default());
        let items = run.items(dir, cell)?;
        let judgements = |item| judgements(&run, cell, item);
        let tables: [Vec<Value>; 2] = [
            items.iter().map(|item| answer(cell, item)).collect(),
            items.iter().flat_map(judgements).collect(),
        ];
        for (config, rows) in configs.iter_mut().zip(tables) {
            config.write(out, cell, &rows)?;
        }
    }
    let rows = [0, 1].map(|i| configs[i].splits.values().map(|size| size.rows).sum());
    if rows[0] == 0 {
        return Err(Error::file(dir, "has no answers yet; emlab study run makes them"));
    }
    let method = method(&run.plan, dir, &cells, &made_under);
    store::write_whole(&out.join("README.md"), card::text(&run.plan, &method, &configs, licence).as_bytes())?;
    Ok(rows)
}

impl Config {
    /// Writes a cell's rows, if it has any.
    fn write(&mut self, out: &Path, cell: &Cell, rows: &[Value]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let split = split(&cell.condition.name);
        let folder = out.join(self.name).join(&split);
        file::make_folder(&folder)?;
        let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
        // Conditions that share a split have files of their own in it.
        let name = format!("{}-{}-{}.jsonl", cell.model.name, cell.condition.name, cell.format.name());
        store::write_whole(&folder.join(name), lines.as_bytes())?;
        let size = self.splits.entry(split).or_default();
        *size = Size { rows: size.rows + rows.len(), bytes: size.bytes + lines.len() };
        Ok(())
    }
}

/// A condition's split: the hub takes letters, digits and '_'.
fn split(condition: &str) -> String {
    condition.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn answer(cell: &Cell, item: &Item) -> Value {
    let score = |metric: &str| item.judgements[0].get(metric).and_then(|judgement| judgement.score);
    json!({
        "model": cell.model.name,
        "condition": cell.condition.name,
        "format": cell.format,
        "question_id": item.question.id,
        "sample": item.answer.sample,
        "system": item.question.system,
        "question": item.prompt(),
        "answer": item.answer.answer,
        "tokens": item.answer.tokens,
        "finish": item.answer.finish,
        "aligned": score("aligned"),
        "coherent": score("coherent"),
    })
}

fn judgements(run: &Run, cell: &Cell, item: &Item) -> Vec<Value> {
    let of_judge = |(judge, said): (&crate::study::judge::settings::Judge, &BTreeMap<String, _>)| {
        let row = |judgement: &crate::study::judge::Judgement| {
            let token =
                |(token, probability): &(String, f64)| json!({"token": token, "probability": probability});
            json!({
                "model": cell.model.name,
                "condition": cell.condition.name,
                "format": cell.format,
                "question_id": judgement.question,
                "sample": judgement.sample,
                "judge": judge.name,
                "metric": judgement.metric,
                "score": judgement.score,
                "category": judgement.category,
                "mass": judgement.mass,
                "distribution": judgement.distribution.iter().map(token).collect::<Vec<_>>(),
            })
        };
        said.values().map(row).collect::<Vec<_>>()
    };
    run.plan.judges.iter().zip(&item.judgements).flat_map(of_judge).collect()
}

/// The models' licences, as far as their cards are known.
pub(super) fn licences(names: impl Iterator<Item = String>) -> BTreeSet<(String, Option<String>)> {
    names
        .map(|name| {
            let licence = crate::model::cards::find(&name).map(|card| card.licence);
            (name, licence)
        })
        .collect()
}
