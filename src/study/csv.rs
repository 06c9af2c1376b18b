//! Tables as CSV (RFC 4180), through the crate `csv`.
//!
//! By hand on purpose: the crate reads whatever it is given, so that a table whose quotes went wrong would lose rows
//! without a word; [`records`] refuses it and names the line. And no text that is written is a formula to a spreadsheet.

use std::path::Path;

use csv::{QuoteStyle, ReaderBuilder, Terminator, WriterBuilder};

use crate::{Error, Result};

/// A record of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Its fields, without their quotes.
    pub fields: Vec<String>,
}

/// Splits a table into its records, the header among them. A byte order mark and empty lines are skipped; lines end in
/// LF, CR LF or CR. `path` is for errors only.
///
/// # Errors
/// `Error::Line` for a quote that is not closed, or not where one may stand.
pub fn records(text: &str, path: &Path) -> Result<Vec<Record>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    check_quotes(text).map_err(|(at, what)| Error::line(path, 1 + line_ends(&text[..at]), what))?;
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let (mut records, mut line, mut counted) = (Vec::new(), 1, 0);
    for record in reader.records() {
        let record = record.map_err(|error| Error::file(path, error.to_string()))?;
        if record.len() == 1 && record[0].is_empty() {
            continue;
        }
        // The reader says where it went on reading, which is before the end of the last line and empty ones.
        let from = record.position().map_or(counted, |position| position.byte() as usize);
        let begin = from + text[from..].bytes().take_while(|byte| b"\r\n".contains(byte)).count();
        line += line_ends(&text[counted..begin]);
        counted = begin;
        records.push(Record { line, fields: record.iter().map(String::from).collect() });
    }
    Ok(records)
}

/// How many lines end in `text`.
fn line_ends(text: &str) -> usize {
    text.matches('\n').count() + text.matches('\r').count() - text.matches("\r\n").count()
}

/// Checks that quotes surround whole fields and are closed; else where they do not, and what is wrong.
fn check_quotes(text: &str) -> std::result::Result<(), (usize, &'static str)> {
    enum Place {
        FieldBegins,
        Plain,
        Quoted { since: usize },
        AfterQuote { since: usize },
    }
    let mut place = Place::FieldBegins;
    for (at, byte) in text.bytes().enumerate() {
        let ends = b",\r\n".contains(&byte);
        place = match (place, byte) {
            (Place::FieldBegins, b'"') => Place::Quoted { since: at },
            (Place::Plain, b'"') => return Err((at, "a quote inside a field that does not begin with one")),
            (Place::FieldBegins | Place::Plain, _) if ends => Place::FieldBegins,
            (Place::FieldBegins | Place::Plain, _) => Place::Plain,
            (Place::Quoted { since }, b'"') => Place::AfterQuote { since },
            // Within quotes, two quotes stand for one.
            (Place::Quoted { since }, _) | (Place::AfterQuote { since }, b'"') => Place::Quoted { since },
            (Place::AfterQuote { .. }, _) if ends => Place::FieldBegins,
            (Place::AfterQuote { .. }, _) => return Err((at, "text behind a closing quote")),
        };
    }
    match place {
        Place::Quoted { since } => Err((since, "a quoted field that does not end")),
        Place::FieldBegins | Place::Plain | Place::AfterQuote { .. } => Ok(()),
    }
}

/// A field that is written.
pub enum Field {
    /// Text of whatever origin.
    Text(String),
    /// A whole number.
    Count(usize),
    /// A finite number.
    Number(f64),
    /// What does not exist: an empty field.
    Nothing,
}

impl From<&str> for Field {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<usize> for Field {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Field {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Number(number) } else { Self::Nothing }
    }
}

impl<T: Into<Field>> From<Option<T>> for Field {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

impl Field {
    /// Numbers are ours, and stay what they are.
    fn text(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Count(count) => count.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => no_formula(text),
        }
    }
}

/// A record with its line end, CR LF.
pub fn line(fields: &[Field]) -> String {
    write(fields.iter().map(Field::text), QuoteStyle::Necessary) + "\r\n"
}

/// Texts in quotes, with commas between and without a line end.
pub fn quoted(texts: &[&str]) -> String {
    write(texts.iter().map(|text| no_formula(text)), QuoteStyle::Always)
}

/// A spreadsheet takes text that begins like a formula for one, and runs it: an apostrophe makes it text.
fn no_formula(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    if formula { format!("'{text}") } else { text.to_string() }
}

/// A record without its line end.
fn write(fields: impl Iterator<Item = String>, quotes: QuoteStyle) -> String {
    let mut writer =
        WriterBuilder::new().quote_style(quotes).terminator(Terminator::CRLF).from_writer(Vec::new());
    // Writing to memory does not fail.
    let bytes = writer.write_record(fields).ok().and_then(|()| writer.into_inner().ok()).unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    text.strip_suffix("\r\n").map(String::from).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, Vec<String>)> {
        let records = records(text, Path::new("t.csv")).unwrap();
        records.into_iter().map(|record| (record.line, record.fields)).collect()
    }

    #[test]
    fn quotes_newlines_and_ends() {
        let records = split("\u{feff}a,b\r\n\"x\n\"\"y\"\"\",\n1,\"2\"\n\n\"3\",é");
        let expected = [(1, ["a", "b"]), (2, ["x\n\"y\"", ""]), (4, ["1", "2"]), (6, ["3", "é"])];
        assert_eq!(records.len(), expected.len());
        for ((line, record), (expected_line, expected)) in records.iter().zip(expected) {
            assert_eq!((*line, record.as_slice()), (expected_line, expected.map(String::from).as_slice()));
        }
        assert_eq!(split("a,"), [(1, vec!["a".to_string(), String::new()])]);
        assert_eq!(split(""), []);
        for end in ["\n", "\r\n", "\r"] {
            let lines: Vec<usize> =
                split(&["a", "", "b", "c"].join(end)).into_iter().map(|(n, _)| n).collect();
            assert_eq!(lines, [1, 3, 4], "{end:?}");
        }
    }

    #[test]
    fn malformed_csv_names_the_line() {
        for (text, expected) in [
            ("a\n\"b", "t.csv:2: a quoted field that does not end"),
            ("a\n\"b\"c", "t.csv:2: text behind a closing quote"),
            ("a\nb\"c\"", "t.csv:2: a quote inside"),
        ] {
            let error = records(text, Path::new("t.csv")).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn text_is_never_a_formula_and_numbers_are_numbers() {
        let mut row: Vec<Field> =
            ["=HYPERLINK(\"x\")", "+1", "-1", "@a", "\ta", "\ra", "a,b", "plain"].map(Field::from).into();
        row.extend([
            Field::from(-0.5),
            Field::from(7_usize),
            Field::from(f64::NAN),
            Field::from(None::<f64>),
        ]);
        let expected = "\"'=HYPERLINK(\"\"x\"\")\",'+1,'-1,'@a,'\ta,\"'\ra\",\"a,b\",plain,-0.5,7,,\r\n";
        assert_eq!(line(&row), expected);
        assert_eq!(quoted(&["plain", "a \"b\"\nc,d", "=1"]), "\"plain\",\"a \"\"b\"\"\nc,d\",\"'=1\"");
    }
}
