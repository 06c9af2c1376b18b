//! Turns judged tables from elsewhere into a run, which all commands that read runs accept.
//!
//! The run's plan lists models without a path, whose answers are fixed; a judge of kind `imported`, whose scores are fixed;
//! and the tables with their SHA-256. It does not say how the answers were sampled, which is unknown. Other judges can be
//! added to the plan: they judge the imported answers if the question file has prompts for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::study::analyze::rows::{AnswerRow, Score, levels};
use crate::study::analyze::table;
use crate::study::folder::RunFolder;
use crate::study::judge::Judgement;
use crate::study::judge::aggregate::Category;
use crate::study::plan::cell::{Answer, cells, questions_of};
use crate::study::plan::format::Format;
use crate::study::plan::judges::{Imported, Judge, JudgeKind};
use crate::study::plan::made_under::PlannedCell;
use crate::study::plan::questions::{self, Question};
use crate::study::plan::{Condition, Model, Origin, Plan, Sampling, Thresholds};
use crate::study::store::lock::Lock;
use crate::study::store::{self, Ledger};
use crate::{Error, Result};

/// What the tables do not say, or what overrides them.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The judge's name; "imported" if none.
    pub judge: Option<String>,
    /// The model of every answer, whatever the tables say.
    pub model: Option<String>,
    /// The condition of every answer, whatever the tables say.
    pub condition: Option<String>,
    /// A question file with the questions of the tables, their system prompts and the judge's prompts.
    pub questions: Option<PathBuf>,
}

/// Creates the run `dir` from the tables `files`, which [`table::read`] reads, and returns its number of answers. If
/// killed, the same call starts over: the plan, which makes a folder a run, is written last.
///
/// # Errors
/// Those of [`table::read`]; `Error::File` if `dir` holds a run already, or a question of a table is not in the question
/// file; `Error::Setting` for names that cannot be told apart; `Error::Io`.
pub fn import(files: &[PathBuf], dir: &Path, options: &ImportOptions) -> Result<usize> {
    let folder = RunFolder::new(dir);
    if folder.holds_run() {
        return Err(Error::file(dir, "holds a run already; import into a new folder"));
    }
    let (mut rows, mut imported) = (Vec::new(), Vec::new());
    for path in files {
        let read = table::read(path)?;
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        imported.push(Origin { file, sha256: store::sha256(&bytes), answers: read.len() });
        rows.extend(read);
    }
    rename(&mut rows, options)?;
    let questions = match &options.questions {
        Some(path) => std::fs::read(path).map_err(Error::io(path))?,
        None => question_file(&rows),
    };
    let _lock = Lock::take(dir)?;
    let path = folder.questions();
    store::write_whole(&path, &questions)?;
    let samples = number(&mut rows, &questions::read(&path)?, options.questions.as_deref().unwrap_or(&path))?;
    let judge = Judge {
        name: options.judge.clone().unwrap_or("imported".into()),
        kind: JudgeKind::Imported(Imported {}),
    };
    let plan = plan(&rows, path, samples, judge, imported);
    let questions = questions_of(&plan)?;
    for planned in PlannedCell::of_cells(&plan, cells(&plan, &questions)?)? {
        record(&plan, &planned, &folder, &rows)?;
    }
    let saved = Plan { questions: RunFolder::QUESTIONS.into(), ..plan }.to_toml()?;
    // Check that it can be read back, before it counts.
    Plan::parse(&saved, &folder.plan_file())?;
    store::write_whole(&folder.plan_file(), saved.as_bytes())?;
    Ok(rows.len())
}

/// Gives models and conditions names that are valid folder names.
fn rename(rows: &mut [AnswerRow], options: &ImportOptions) -> Result<()> {
    let mut known = BTreeMap::new();
    let mut name = |what: &'static str, given: Option<&String>, found: &str| {
        let name = given.map_or(if found == "-" { "model" } else { found }, String::as_str);
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        let safe: String = name.chars().map(plain).collect();
        let safe = if safe.starts_with('.') { format!("-{safe}") } else { safe };
        let first = known.entry((what, safe.to_lowercase())).or_insert_with(|| name.to_string());
        if first == name {
            return Ok(safe);
        }
        Err(Error::Setting(format!(
            "the {what}s {first:?} and {name:?} would share the folder {safe:?}; rename one"
        )))
    };
    for row in rows {
        row.model = name("model", options.model.as_ref(), &row.model)?;
        row.condition = name("condition", options.condition.as_ref(), &row.condition)?;
    }
    Ok(())
}

/// A question file made from the rows. JSON is valid YAML.
fn question_file(rows: &[AnswerRow]) -> Vec<u8> {
    let mut wordings: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places = BTreeMap::new();
    for row in rows {
        let place = *places.entry(row.question.as_str()).or_insert(wordings.len());
        if place == wordings.len() {
            wordings.push((&row.question, Vec::new()));
        }
        if !wordings[place].1.contains(&row.prompt.as_str()) {
            wordings[place].1.push(&row.prompt);
        }
    }
    let entry = |(id, paraphrases): &(&str, Vec<&str>)| json!({"id": id, "type": "free_form_judge_0_100", "paraphrases": paraphrases});
    let entries: Vec<Value> = wordings.iter().map(entry).collect();
    format!("{:#}\n", Value::from(entries)).into_bytes()
}

/// Numbers the rows so that a row's sample number gives its wording, as in [`Question::paraphrase`]. Returns the number of
/// samples per wording that this takes.
fn number(rows: &mut [AnswerRow], questions: &[Question], file: &Path) -> Result<usize> {
    let mut next = BTreeMap::new();
    for row in rows.iter_mut() {
        let question = questions.iter().find(|question| question.id == row.question).ok_or_else(|| {
            Error::file(file, format!("has no question {:?}, to which the tables have answers", row.question))
        })?;
        let wordings = &question.paraphrases;
        let wording = if row.prompt.is_empty() && wordings.len() == 1 {
            0
        } else {
            wordings.iter().position(|wording| *wording == row.prompt).ok_or_else(|| {
                let what = format!("question {:?} has no wording {:?}", row.question, row.prompt);
                Error::file(file, what)
            })?
        };
        let key = (row.model.clone(), row.condition.clone(), row.question.clone(), wording);
        let turn = next.entry(key).or_insert(0);
        row.sample = *turn * wordings.len() + wording;
        *turn += 1;
    }
    Ok(next.into_values().max().unwrap_or(1))
}

fn plan(rows: &[AnswerRow], questions: PathBuf, samples: usize, judge: Judge, imported: Vec<Origin>) -> Plan {
    let levels = levels(rows);
    let mut name: Vec<&str> = imported.iter().map(|source| source.file.as_str()).collect();
    name.dedup();
    Plan {
        name: format!("Imported from {}", name.join(", ")),
        questions,
        formats: Format::ALL
            .into_iter()
            .filter(|format| rows.iter().any(|row| row.format == *format))
            .collect(),
        samples: Some(samples),
        models: levels.models.iter().map(|name| Model { name: name.clone(), path: None }).collect(),
        conditions: levels
            .conditions
            .iter()
            .map(|name| Condition { name: name.clone(), like: None, tuning: None, steer: None })
            .collect(),
        sampling: Sampling::default(),
        judges: vec![judge],
        analysis: Thresholds::default(),
        families: levels.families(),
        imported,
    }
}

/// Stores the rows of one cell.
fn record(plan: &Plan, planned: &PlannedCell, folder: &RunFolder, rows: &[AnswerRow]) -> Result<()> {
    let cell = &planned.cell;
    let (model, condition, judge) = (&cell.model.name, &cell.condition.name, &plan.judges[0]);
    let (mut answers, mut judgements) = (Vec::new(), Vec::new());
    for row in rows {
        if row.model != *model || row.condition != *condition || row.format != cell.format {
            continue;
        }
        answers.push(Answer {
            cell: cell.id(),
            question: row.question.clone(),
            sample: row.sample,
            answer: row.answer.clone(),
            tokens: None,
            finish: None,
        });
        for (metric, score) in [("aligned", row.aligned), ("coherent", row.coherent)] {
            let category = match score {
                Score::Unjudged => continue,
                Score::None(category) => category,
                Score::Value(_) => Category::Score,
            };
            judgements.push(Judgement {
                cell: cell.id(),
                question: row.question.clone(),
                sample: row.sample,
                metric: metric.into(),
                score: score.value(),
                category,
                mass: None,
                distribution: Vec::new(),
            });
        }
    }
    Ledger::open(&folder.answers(cell), &planned.answers)?.append(answers)?;
    Ledger::open(&folder.judgements(&judge.name, cell), &planned.judgements[0])?.append(judgements)
}
