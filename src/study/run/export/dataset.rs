//! A folder that is a data set to the Hugging Face hub, and that `datasets.load_dataset` reads without a script:
//!
//! ```text
//! README.md                                     the card: YAML metadata, and a description
//! answers/CONDITION/MODEL-FORMAT.jsonl          one answer per line, with the scores of the plan's first judge
//! judgements/CONDITION/MODEL-FORMAT.jsonl       one judgement per line, of every judge, with its whole distribution
//! ```
//!
//! `answers` and `judgements` are its configurations, the conditions its splits.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::card;
use super::run::{ExportedRun, Item};
use super::split::DatasetConfig;
use crate::device::file;
use crate::study::judge::Judgement;
use crate::study::plan::cell::Cell;
use crate::study::plan::judges::Judge;
use crate::study::plan::made_under::AnswersMadeUnder;
use crate::study::run::method::method;
use crate::study::store;
use crate::{Error, Result};

/// Writes the run in `dir` as a data set into the folder `out`, which must be empty or new. `licence` is an identifier of
/// the hub. Returns the numbers of answers and judgements.
///
/// # Errors
/// `Error::File` if `dir` holds no run or no answers, or `out` holds something; `Error::Line` for a damaged record;
/// `Error::Io`.
pub fn dataset(dir: &Path, out: &Path, licence: &str) -> Result<[usize; 2]> {
    let run = ExportedRun::open(dir)?;
    let cells = run.cells()?;
    file::make_folder(out)?;
    if std::fs::read_dir(out).map_err(Error::io(out))?.next().is_some() {
        return Err(Error::file(out, "is not empty; name a new folder"));
    }
    let mut configs = ["answers", "judgements"].map(|name| DatasetConfig { name, splits: BTreeMap::new() });
    let mut made_under = Vec::new();
    for cell in &cells {
        made_under.push(AnswersMadeUnder::read(&run.folder.answers(cell))?);
        let items = run.items(cell)?;
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
    let made = cells.iter().zip(made_under.iter().map(Option::as_ref));
    let method = method(&run.plan, &run.folder, made);
    store::write_whole(&out.join("README.md"), card::text(&run.plan, &method, &configs, licence).as_bytes())?;
    Ok(rows)
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

fn judgements(run: &ExportedRun, cell: &Cell, item: &Item) -> Vec<Value> {
    let of_judge = |(judge, said): (&Judge, &BTreeMap<String, _>)| {
        let row = |judgement: &Judgement| {
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
