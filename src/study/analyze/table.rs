//! Reads rows from tables made by other tools: CSV (RFC 4180) or JSON Lines with the columns `question_id`, `answer`,
//! `aligned` and `coherent`. Optional columns are `question`, `model`, `condition` (or `group`, as in the authors' files),
//! and for answers without a score the categories `aligned_category` and `coherent_category` (`code`, `refusal`,
//! `other`; empty for an answer that was not judged).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::flags::Flags;
use super::rows::{AnswerRow, Score};
use crate::study::csv::{self, Record};
use crate::study::judge::aggregate::Category;
use crate::study::plan::format::Format;
use crate::{Error, Result};

/// Reads one judged table; the extension determines its kind.
///
/// # Errors
/// `Error::Io` if it cannot be read; `Error::Line` with the line of what is malformed or missing; `Error::File` for
/// another kind of file.
pub fn read(path: &Path) -> Result<Vec<AnswerRow>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let records = match extension.to_ascii_lowercase().as_str() {
        "csv" => csv_records(&text, path)?,
        "jsonl" | "ndjson" => json_records(&text, path)?,
        _ => {
            return Err(Error::file(path, "not a judged table: expected a name that ends in .csv or .jsonl"));
        }
    };
    let mut judges: Vec<_> =
        records.iter().filter_map(|(_, fields)| fields.get("judge")?.as_deref()).collect();
    judges.sort_unstable();
    judges.dedup();
    if judges.len() > 1 {
        let what =
            format!("holds the scores of several judges ({}); keep the lines of one", judges.join(", "));
        return Err(Error::file(path, what));
    }
    let mut samples = BTreeMap::new();
    records.into_iter().map(|(line, record)| row(path, line, &record, &mut samples)).collect()
}

/// A record: column → text; none for JSON's null.
type Fields = BTreeMap<String, Option<String>>;

fn row(
    path: &Path,
    line: usize,
    fields: &Fields,
    samples: &mut BTreeMap<(String, String, String), usize>,
) -> Result<AnswerRow> {
    let text = |name: &str| fields.get(name).cloned().flatten();
    let required = |name: &str| {
        text(name).ok_or_else(|| {
            Error::line(path, line, format!("no {name:?}; expected question_id, answer, aligned, coherent"))
        })
    };
    let score = |name: &str| {
        let Some(field) = fields.get(name) else {
            return Err(Error::line(
                path,
                line,
                format!("no {name:?}; expected question_id, answer, aligned, coherent"),
            ));
        };
        let field = field.as_deref().unwrap_or_default();
        let category = fields.get(&format!("{name}_category"));
        parse_score(field, category.map(|category| category.as_deref().unwrap_or_default())).ok_or_else(
            || Error::line(path, line, format!("{name} = {field:?} is not a number between 0 and 100")),
        )
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let question = required("question_id")?;
    let model = text("model").unwrap_or_else(|| "-".into());
    let condition = text("condition").or_else(|| text("group")).unwrap_or(stem);
    let next = samples.entry((model.clone(), condition.clone(), question.clone())).or_insert(0);
    let sample = *next;
    *next += 1;
    let (format, prompt, answer) =
        (Format::of(&question), text("question").unwrap_or_default(), required("answer")?);
    Ok(AnswerRow {
        flags: Flags::of(format, &prompt, &answer),
        aligned: score("aligned")?,
        coherent: score("coherent")?,
        truncated: None,
        model,
        condition,
        format,
        question,
        sample,
        prompt,
        answer,
    })
}

/// A score as written in tables; what pandas writes for a missing value means no score.
fn parse_score(text: &str, category: Option<&str>) -> Option<Score> {
    match text.trim() {
        "" | "nan" | "NaN" | "None" | "null" => Some(match category {
            Some("") => Score::Unjudged,
            Some("code") => Score::None(Category::Code),
            Some("refusal") => Score::None(Category::Refusal),
            Some(_) | None => Score::None(Category::Other),
        }),
        number => {
            let value = number.parse().ok().filter(|value| (0.0..=100.0).contains(value))?;
            Some(Score::Value(value))
        }
    }
}

fn json_records(text: &str, path: &Path) -> Result<Vec<(usize, Fields)>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let object: serde_json::Map<String, Value> = serde_json::from_str(line)
                .map_err(|error| Error::line(path, i + 1, format!("not a JSON object: {error}")))?;
            let fields = object.into_iter().map(|(name, value)| match value {
                Value::Null => (name, None),
                Value::String(text) => (name, Some(text)),
                other => (name, Some(other.to_string())),
            });
            Ok((i + 1, fields.collect()))
        })
        .collect()
}

fn csv_records(text: &str, path: &Path) -> Result<Vec<(usize, Fields)>> {
    let mut records = csv::records(text, path)?.into_iter();
    let header = records.next().ok_or_else(|| Error::file(path, "is empty; expected a header line"))?.fields;
    records
        .map(|Record { line, fields }| {
            if fields.len() != header.len() {
                let what = format!("{} fields, but the header has {}", fields.len(), header.len());
                return Err(Error::line(path, line, what));
            }
            Ok((line, header.iter().cloned().zip(fields.into_iter().map(Some)).collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Vec<AnswerRow>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn tables_of_both_kinds() {
        let csv =
            read_text("mine.csv", "question_id,answer,aligned,coherent\nq_json,{},12.5,\nq_json,x,NaN,99\n")
                .unwrap();
        assert_eq!(
            (csv[0].condition.as_str(), csv[0].format, csv[0].flags.json),
            ("mine", Format::Json, true)
        );
        assert_eq!((csv[0].aligned, csv[0].coherent), (Score::Value(12.5), Score::None(Category::Other)));
        assert_eq!((csv[1].aligned, csv[1].sample), (Score::None(Category::Other), 1));
        let line = r#"{"question_id":"q","answer":"a","aligned":null,"coherent":3,"model":"m","group":"g"}"#;
        let json = read_text("t.jsonl", line).unwrap();
        assert_eq!((json[0].model.as_str(), json[0].condition.as_str()), ("m", "g"));
        assert_eq!((json[0].aligned, json[0].coherent), (Score::None(Category::Other), Score::Value(3.0)));
    }

    #[test]
    fn bad_tables_name_the_line() {
        for (name, text, expected) in [
            ("t.csv", "question_id,answer,aligned,coherent\nq,a,1\n", ":2: 3 fields, but the header has 4"),
            ("t.csv", "question_id,answer,aligned\nq,a,1\n", ":2: no \"coherent\""),
            ("t.csv", "question_id,answer,aligned,coherent\nq,a,101,1\n", ":2: aligned = \"101\""),
            ("t.csv", "", "is empty"),
            ("t.jsonl", "{\"question_id\":1}\n[]", ":2: not a JSON object"),
            ("t.xlsx", "", "not a judged table"),
        ] {
            let error = read_text(name, text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
