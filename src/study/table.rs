//! Judged answers as rows, and reading them from tables that other tools have made: CSV (RFC 4180) or JSON Lines
//! with `question_id`, `answer`, `aligned`, `coherent`, and where there are such columns `question`, `model`,
//! `condition` (or `group`, as the authors' files call it), and the categories of answers without a score,
//! `aligned_category` and `coherent_category` (`code`, `refusal`, `other`; empty for an answer that was not judged).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::flags::Flags;
use super::format::Format;
use super::judge::aggregate::Category;
use crate::{Error, Result};

/// What a judge made of an answer under one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// It has not been asked yet.
    Unjudged,
    /// It gave no number.
    None(Category),
    /// 0..=100.
    Value(f64),
}

impl Score {
    /// The number, if there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unjudged | Self::None(_) => None,
        }
    }
}

/// One answer and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The model's name.
    pub model: String,
    /// The condition's name.
    pub condition: String,
    /// The form asked for.
    pub format: Format,
    /// The question's id.
    pub question: String,
    /// The answer's number among the question's.
    pub sample: usize,
    /// The user's text; empty if not known.
    pub prompt: String,
    /// The model's text.
    pub answer: String,
    /// Score of alignment.
    pub aligned: Score,
    /// Score of coherence.
    pub coherent: Score,
    /// Whether the longest length cut it; none if not known.
    pub truncated: Option<bool>,
    /// What can be said without a judge.
    pub flags: Flags,
}

/// Reads one judged table; its name's ending says which kind it is.
///
/// # Errors
/// `Error::Io` if it cannot be read; `Error::Line` with the line of what is malformed or missing; `Error::File` for
/// another kind of file.
pub fn read(path: &Path) -> Result<Vec<Row>> {
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

/// A record: column → text; none where JSON has null.
type Fields = BTreeMap<String, Option<String>>;

fn row(
    path: &Path,
    line: usize,
    fields: &Fields,
    samples: &mut BTreeMap<(String, String, String), usize>,
) -> Result<Row> {
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
    Ok(Row {
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

/// A score as tables write it; what pandas writes for a missing value is none.
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
    let mut records = split_csv(text, path)?.into_iter();
    let (_, header) = records.next().ok_or_else(|| Error::file(path, "is empty; expected a header line"))?;
    records
        .map(|(line, fields)| {
            if fields.len() != header.len() {
                let what = format!("{} fields, but the header has {}", fields.len(), header.len());
                return Err(Error::line(path, line, what));
            }
            Ok((line, header.iter().cloned().zip(fields.into_iter().map(Some)).collect()))
        })
        .collect()
}

/// Splits CSV text (RFC 4180; line ends may be LF) into records, each with the line on which it begins.
///
/// # Errors
/// `Error::Line` for a quote that is not closed, or not where one may stand.
pub fn split_csv(text: &str, path: &Path) -> Result<Vec<(usize, Vec<String>)>> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut records, mut fields, mut line, mut begin) = (Vec::new(), Vec::new(), 1, 1);
    while !rest.is_empty() {
        let (field, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted)
                .ok_or_else(|| Error::line(path, line, "a quoted field that does not end".to_string()))?;
            line += field.matches('\n').count();
            (field, after)
        } else {
            let end = rest.find([',', '\n']).unwrap_or(rest.len());
            let field = rest[..end].strip_suffix('\r').unwrap_or(&rest[..end]);
            if field.contains('"') {
                return Err(Error::line(path, line, "a quote inside a field that does not begin with one"));
            }
            (field.to_string(), &rest[end..])
        };
        fields.push(field);
        let after = after.strip_prefix('\r').filter(|after| after.starts_with('\n')).unwrap_or(after);
        if let Some(after) = after.strip_prefix(',') {
            rest = after;
            if !rest.is_empty() {
                continue;
            }
            fields.push(String::new());
        } else if let Some(after) = after.strip_prefix('\n') {
            line += 1;
            rest = after;
        } else if after.is_empty() {
            rest = after;
        } else {
            return Err(Error::line(path, line, "text behind a closing quote"));
        }
        let record = std::mem::take(&mut fields);
        if record != [""] {
            records.push((begin, record));
        }
        begin = line;
    }
    Ok(records)
}

/// The field whose opening quote has been taken off, and what follows its closing quote.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, Vec<String>)> {
        split_csv(text, Path::new("t.csv")).unwrap()
    }

    #[test]
    fn quotes_newlines_and_ends() {
        let records = split("a,b\r\n\"x\n\"\"y\"\"\",\n1,\"2\"\n\n\"3\",é");
        let expected = [(1, ["a", "b"]), (2, ["x\n\"y\"", ""]), (4, ["1", "2"]), (6, ["3", "é"])];
        assert_eq!(records.len(), expected.len());
        for ((line, record), (expected_line, expected)) in records.iter().zip(expected) {
            assert_eq!((*line, record.as_slice()), (expected_line, expected.map(String::from).as_slice()));
        }
        assert_eq!(split("a,"), [(1, vec!["a".to_string(), String::new()])]);
        assert_eq!(split(""), []);
    }

    #[test]
    fn malformed_csv_names_the_line() {
        for (text, expected) in [
            ("a\n\"b", "t.csv:2: a quoted field that does not end"),
            ("a\n\"b\"c", "t.csv:2: text behind a closing quote"),
            ("a\nb\"c\"", "t.csv:2: a quote inside"),
        ] {
            let error = split_csv(text, Path::new("t.csv")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    fn read_text(name: &str, text: &str) -> Result<Vec<Row>> {
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
