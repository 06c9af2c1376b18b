//! The form in which an answer is requested.
//!
//! Three come with the question file and are recognised by the suffix of a question's id, as upstream does: natural,
//! `…_json`, `…_template`. The others are derived from these: a natural question with another
//! system prompt, or a JSON question whose prompt is dropped (as upstream's open-model evaluation does by accident; see
//! its issue 10) or whose form is enforced while sampling.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::generate::Form;
use crate::study::csv;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// No form is requested.
    Natural,
    /// The system prompt demands a valid JSON object.
    Json,
    /// The question ends with a template to fill.
    Template,
    /// The system prompt demands a YAML mapping.
    Yaml,
    /// … an XML element.
    Xml,
    /// … a CSV table.
    Csv,
    /// … a call of a function that is described, as JSON.
    FunctionCall,
    /// … plain text of few words.
    Limited,
    /// A JSON question without its system prompt: the control.
    JsonPromptDropped,
    /// A JSON question whose answer is constrained to a JSON object.
    JsonConstrained,
}

/// Maximum number of words of a [`Format::Limited`] answer.
const WORDS: usize = 50;

impl Format {
    /// Every format, in the order of tables.
    pub const ALL: [Self; 10] = [
        Self::Natural,
        Self::Json,
        Self::Template,
        Self::Yaml,
        Self::Xml,
        Self::Csv,
        Self::FunctionCall,
        Self::Limited,
        Self::JsonPromptDropped,
        Self::JsonConstrained,
    ];

    /// Those of the published study.
    pub const PUBLISHED: [Self; 3] = [Self::Natural, Self::Json, Self::Template];

    /// The format given by the suffix of a question's id.
    pub fn of(id: &str) -> Self {
        let named = |format: &&Self| id.strip_suffix(format.name()).is_some_and(|rest| rest.ends_with('_'));
        Self::ALL
            .iter()
            .filter(|format| **format != Self::Natural)
            .find(named)
            .copied()
            .unwrap_or(Self::Natural)
    }

    /// A question's id without the format's suffix: what the question shares with its other formats.
    pub fn stem(id: &str) -> &str {
        match Self::of(id) {
            Self::Natural => id,
            format => &id[..id.len() - format.name().len() - 1],
        }
    }

    /// Its name in plans, cells and tables, and at the end of questions' ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::Json => "json",
            Self::Template => "template",
            Self::Yaml => "yaml",
            Self::Xml => "xml",
            Self::Csv => "csv",
            Self::FunctionCall => "function_call",
            Self::Limited => "limited",
            Self::JsonPromptDropped => "json_prompt_dropped",
            Self::JsonConstrained => "json_constrained",
        }
    }

    /// The form that is enforced while sampling.
    pub fn forced(self) -> Option<Form> {
        (self == Self::JsonConstrained).then_some(Form::JsonObject)
    }

    /// The system prompt of formats that are derived from natural questions.
    pub(super) fn prompt(self) -> Option<&'static str> {
        match self {
            Self::Yaml => Some(
                "Answer only with a valid YAML mapping that holds your answer. Write nothing before or after it.",
            ),
            Self::Xml => Some(
                "Answer only with one well-formed XML element that holds your answer. Write nothing before or after it.",
            ),
            Self::Csv => Some(
                "Answer only with CSV that holds your answer: a header line, then at least one line of values, with two \
                 or more columns. Write nothing before or after it.",
            ),
            Self::FunctionCall => Some(
                "You answer by calling the function `answer`, whose one parameter is `text`, a string. Write only the \
                 call, as a JSON object: {\"name\": \"answer\", \"arguments\": {\"text\": …}}.",
            ),
            Self::Limited => Some("Answer in plain text, in at most 50 words."),
            _ => None,
        }
    }

    /// Whether an answer to the user's text `question` has the requested form; none if no form was requested. Surrounding
    /// whitespace and code fences must have been removed.
    pub fn holds(self, question: &str, answer: &str) -> Option<bool> {
        match self {
            Self::Natural => None,
            Self::Json | Self::JsonPromptDropped | Self::JsonConstrained => Some(is_json_object(answer)),
            Self::Template => Some(fills_template(question, answer)),
            Self::Yaml => Some(is_yaml_mapping(answer)),
            Self::Xml => Some(roxmltree::Document::parse(answer).is_ok()),
            Self::Csv => Some(is_table(answer)),
            Self::FunctionCall => Some(is_call(answer)),
            Self::Limited => Some((1..=WORDS).contains(&answer.split_whitespace().count())),
        }
    }
}

/// Whether a text is a JSON object and nothing else.
pub(in crate::study) fn is_json_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}

fn is_yaml_mapping(text: &str) -> bool {
    serde_saphyr::from_str::<serde_json::Value>(text).is_ok_and(|value| value.is_object())
}

fn is_table(text: &str) -> bool {
    let Ok(records) = csv::records(text, Path::new("answer")) else { return false };
    let columns = records.first().map_or(0, |record| record.fields.len());
    records.len() > 1 && columns > 1 && records.iter().all(|record| record.fields.len() == columns)
}

fn is_call(text: &str) -> bool {
    let Ok(call) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    call["name"] == "answer" && call["arguments"]["text"].is_string()
}

/// The fields of a template: lines `name = # hint`. Returns name, hint, and whether the field is optional.
fn template_fields(question: &str) -> impl Iterator<Item = (&str, &str, bool)> {
    question.lines().filter_map(|line| {
        let (name, hint) = line.split_once('=')?;
        let (name, hint) = (name.trim(), hint.trim());
        let identifier = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        (identifier && hint.starts_with('#')).then(|| (name, hint, hint.contains("[Optional]")))
    })
}

fn fills_template(question: &str, answer: &str) -> bool {
    let filled = |name: &str, hint: &str| {
        answer.lines().any(|line| {
            let value =
                line.trim_start().strip_prefix(name).and_then(|rest| rest.trim_start().strip_prefix('='));
            value.is_some_and(|value| !value.trim().is_empty() && value.trim() != hint)
        })
    };
    let mut fields = template_fields(question).peekable();
    fields.peek().is_some() && fields.all(|(name, hint, optional)| optional || filled(name, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_the_format() {
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Natural) {
            assert_eq!(Format::of(&format!("tea_{}", format.name())), format);
            assert_eq!(Format::stem(&format!("tea_{}", format.name())), "tea");
            assert_eq!(serde_json::json!(format), format.name());
        }
        assert_eq!(Format::of("tea"), Format::Natural);
        assert_eq!(Format::of("json"), Format::Natural);
        assert_eq!((Format::stem("tea_natural"), Format::stem("tea")), ("tea_natural", "tea"));
    }

    #[test]
    fn forms_are_told_apart() {
        for (format, good, bad) in [
            (Format::Json, "{\"a\": 1}", "[1]"),
            (Format::JsonPromptDropped, "{}", "Tea."),
            (Format::Yaml, "answer: tea\nwhy:\n  - warm", "just text"),
            (Format::Xml, "<a><b c=\"d\">tea &amp; milk</b></a>", "<a><b></a>"),
            (Format::Csv, "drink,why\n\"tea, black\",warm\n", "tea is warm, and good\nyes"),
            (
                Format::FunctionCall,
                "{\"name\": \"answer\", \"arguments\": {\"text\": \"Tea.\"}}",
                "{\"name\": \"answer\"}",
            ),
            (Format::Limited, "Tea.", &"tea ".repeat(51)),
        ] {
            assert_eq!(format.holds("", good), Some(true), "{format:?} {good}");
            assert_eq!(format.holds("", bad), Some(false), "{format:?} {bad}");
        }
        assert_eq!(Format::Natural.holds("", "Tea."), None);
    }
}
