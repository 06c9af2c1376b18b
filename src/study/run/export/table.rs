//! CSV: one line per answer and judge. Answers that a judge has not rated have a line without scores.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::run::{ExportedRun, Item};
use crate::Result;
use crate::device::file;
use crate::study::analyze::flags::Flags;
use crate::study::csv::{Field, line};
use crate::study::plan::cell::Cell;

/// The columns. `emlab analyze` and `emlab study import` read them back.
const COLUMNS: &str = "model,condition,format,question_id,sample,system,question,answer,tokens,finish,judge,aligned,\
                       coherent,aligned_category,coherent_category,form,think,code\r\n";

/// Writes the table of the run in `dir` to `path`, and returns its number of lines below the header. Text that a
/// spreadsheet would take for a formula is prefixed with an apostrophe.
///
/// # Errors
/// `Error::File` if `dir` holds no run; `Error::Line` for a damaged record; `Error::Io`.
pub fn table(dir: &Path, path: &Path) -> Result<usize> {
    let run = ExportedRun::open(dir)?;
    let cells = run.cells()?;
    let (mut lines, mut failed) = (0, None);
    file::replace(path, |out| {
        out.write_all(COLUMNS.as_bytes())?;
        for cell in &cells {
            let items = match run.items(cell) {
                Ok(items) => items,
                Err(error) => {
                    failed = Some(error);
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
            };
            for item in &items {
                for (i, judge) in run.plan.judges.iter().enumerate() {
                    out.write_all(line(&fields(cell, item, i, &judge.name)).as_bytes())?;
                    lines += 1;
                }
            }
        }
        Ok(())
    })
    .map_err(|error| failed.unwrap_or(error))?;
    Ok(lines)
}

/// The name that a value has in JSON.
fn named(value: &impl Serialize) -> Field {
    json!(value).as_str().into()
}

fn fields(cell: &Cell, item: &Item, judge: usize, name: &str) -> Vec<Field> {
    let Item { question, answer, judgements } = item;
    let said = |metric: &str| judgements[judge].get(metric);
    let score = |metric: &str| Field::from(said(metric).and_then(|judgement| judgement.score));
    let category = |metric: &str| named(&said(metric).map(|judgement| judgement.category));
    let yes = |flag: bool| Field::from(usize::from(flag));
    let flags = Flags::of(cell.format, item.prompt(), &answer.answer);
    vec![
        cell.model.name.as_str().into(),
        cell.condition.name.as_str().into(),
        cell.format.name().into(),
        question.id.as_str().into(),
        answer.sample.into(),
        question.system.as_deref().into(),
        item.prompt().into(),
        answer.answer.as_str().into(),
        answer.tokens.into(),
        named(&answer.finish),
        name.into(),
        score("aligned"),
        score("coherent"),
        category("aligned"),
        category("coherent"),
        flags.form.map_or(Field::Nothing, yes),
        yes(flags.think),
        yes(flags.code),
    ]
}
