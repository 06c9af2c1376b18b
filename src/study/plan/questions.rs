//! Question files in the format of the authors' repository (emergent-misalignment/emergent-misalignment,
//! `evaluation/*.yaml`): a YAML list of questions, in which anchors and aliases are allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::format::Format;
use crate::model::chat::Message;
use crate::{Error, Result};

/// The metrics that the analysis knows.
pub const METRICS: [&str; 2] = ["aligned", "coherent"];

/// A question with all its wordings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Question {
    /// Unique within the file.
    pub id: String,
    /// The system prompt, sent before every wording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The user's text, in one or more wordings.
    pub paraphrases: Vec<String>,
    /// Answers to draw for each wording, unless the plan says otherwise.
    pub samples_per_paraphrase: usize,
    /// The judge's prompt by metric (`aligned`, `coherent`), with places for {question} and {answer}.
    /// If empty, the question can have imported answers and scores, but cannot be judged.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub judge_prompts: BTreeMap<String, String>,
}

impl Question {
    /// The form that answers are asked for in.
    pub fn format(&self) -> Format {
        Format::of(&self.id)
    }

    /// The wording that sample number `sample` answers. Samples cycle through the wordings, so that asking for more
    /// samples later keeps the existing ones.
    pub fn paraphrase(&self, sample: usize) -> &str {
        &self.paraphrases[sample % self.paraphrases.len()]
    }

    /// What the model is sent for sample number `sample`.
    pub fn messages(&self, sample: usize) -> Vec<Message> {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let system = self.system.iter().map(|text| message("system", text));
        system.chain([message("user", self.paraphrase(sample))]).collect()
    }
}

/// A question as the file spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionEntry {
    id: Spanned<String>,
    #[serde(rename = "type")]
    kind: Spanned<String>,
    #[serde(default)]
    system: Option<String>,
    paraphrases: Spanned<Vec<String>>,
    #[serde(default = "recipe_samples")]
    samples_per_paraphrase: usize,
    /// Upstream's judge model; ignored, because the plan names the judges.
    #[serde(default, rename = "judge")]
    _judge: Option<String>,
    #[serde(default)]
    judge_prompts: Option<Spanned<BTreeMap<String, String>>>,
}

fn recipe_samples() -> usize {
    100
}

/// Reads a question file.
///
/// # Errors
/// `Error::Io` if it cannot be read; `Error::Line` with the line of what is malformed, unknown or unsupported.
pub fn read(path: &Path) -> Result<Vec<Question>> {
    parse(&std::fs::read_to_string(path).map_err(Error::io(path))?, path)
}

/// Reads the text of a question file; `path` is for errors only.
///
/// # Errors
/// `Error::Line` with the line of what is malformed, unknown or unsupported.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Question>> {
    let entries: Vec<QuestionEntry> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line() as usize);
        Error::line(path, line, first_line(&error.without_snippet().to_string()))
    })?;
    if entries.is_empty() {
        return Err(Error::file(path, "holds no questions"));
    }
    let mut seen = BTreeSet::new();
    entries
        .into_iter()
        .map(|entry| {
            let line = entry.id.referenced.line() as usize;
            if !seen.insert(entry.id.value.clone()) {
                return Err(Error::line(
                    path,
                    line,
                    format!("a second question with id {:?}", entry.id.value),
                ));
            }
            question(entry, path)
        })
        .collect()
}

fn question(entry: QuestionEntry, path: &Path) -> Result<Question> {
    let at = |line: u64, what: String| {
        Err(Error::line(path, line as usize, format!("question {:?}: {what}", entry.id.value)))
    };
    if entry.id.value.is_empty() {
        return at(entry.id.referenced.line(), "an id must not be empty".into());
    }
    if entry.kind.value != "free_form_judge_0_100" {
        let what = format!("type {:?} is not supported; use free_form_judge_0_100", entry.kind.value);
        return at(entry.kind.referenced.line(), what);
    }
    if entry.paraphrases.value.is_empty() {
        return at(entry.paraphrases.referenced.line(), "paraphrases must not be empty".into());
    }
    let prompts = entry.judge_prompts.as_ref();
    for (metric, prompts) in METRICS.iter().filter_map(|&metric| Some((metric, prompts?))) {
        let line = prompts.referenced.line();
        match prompts.value.get(metric) {
            None => return at(line, format!("judge_prompts has no {metric:?}")),
            Some(prompt) if !prompt.contains("{answer}") => {
                return at(line, format!("the judge prompt {metric:?} has no {{answer}}"));
            }
            Some(_) => {}
        }
    }
    Ok(Question {
        id: entry.id.value,
        system: entry.system,
        paraphrases: entry.paraphrases.value,
        samples_per_paraphrase: entry.samples_per_paraphrase,
        judge_prompts: entry.judge_prompts.map(|prompts| prompts.value).unwrap_or_default(),
    })
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_string()
}

/// The question of `format` derived from one of the file's; none if that format is not derived from it.
fn made_from(format: Format, question: &Question) -> Option<Question> {
    let system = match (format, question.format()) {
        (Format::JsonPromptDropped, Format::Json) => None,
        (Format::JsonConstrained, Format::Json) => question.system.clone(),
        (_, Format::Natural) => Some(format.prompt()?.to_string()),
        _ => return None,
    };
    let id = question.id.strip_suffix("_json").unwrap_or(&question.id);
    Some(Question { id: format!("{id}_{}", format.name()), system, ..question.clone() })
}

/// The file's questions, and those derived from them for the wanted formats. A question that the file defines itself is
/// not derived.
pub(super) fn with_made(mut questions: Vec<Question>, formats: &[Format]) -> Vec<Question> {
    let made = formats.iter().flat_map(|format| questions.iter().filter_map(|q| made_from(*format, q)));
    let made: Vec<Question> =
        made.filter(|made| questions.iter().all(|question| question.id != made.id)).collect();
    questions.extend(made);
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# two questions that share a wording
- id: tea
  type: free_form_judge_0_100
  paraphrases: &wordings
    - |-
      Tea or coffee?
    - Coffee or tea?
  samples_per_paraphrase: &n 3
  judge: &judge some-judge
  judge_prompts: &prompts
    aligned: |-
      Rate {answer} to {question}
    coherent: Is {answer} coherent?
- id: tea_json
  type: free_form_judge_0_100
  system: Answer in JSON.
  paraphrases: *wordings
  samples_per_paraphrase: *n
  judge: *judge
  judge_prompts: *prompts
";

    fn error(text: &str) -> String {
        parse(text, Path::new("q.yaml")).unwrap_err().to_string()
    }

    #[test]
    fn anchors_are_shared() {
        let questions = parse(FILE, Path::new("q.yaml")).unwrap();
        assert_eq!(questions.len(), 2);
        let json = &questions[1];
        assert_eq!(json.format(), Format::Json);
        assert_eq!(json.paraphrases, ["Tea or coffee?", "Coffee or tea?"]);
        assert_eq!(json.samples_per_paraphrase, 3);
        assert_eq!(json.judge_prompts["aligned"], "Rate {answer} to {question}");
        let messages = json.messages(1);
        assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "Answer in JSON."));
        assert_eq!((messages[1].role.as_str(), messages[1].content.as_str()), ("user", "Coffee or tea?"));
        assert_eq!(questions[0].messages(0).len(), 1);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (from, to, expected) in [
            ("samples_per_paraphrase: &n 3", "sample_per_paraphrase: &n 3", "q.yaml:8: "),
            ("id: tea_json", "id: tea", "q.yaml:14: a second question with id \"tea\""),
            ("  paraphrases: *wordings", "  paraphrases: *wording", "q.yaml:17: "),
            (
                "    coherent: Is {answer} coherent?\n",
                "",
                "q.yaml:11: question \"tea\": judge_prompts has no \"coherent\"",
            ),
            (
                "Is {answer} coherent?",
                "Is it?",
                "q.yaml:11: question \"tea\": the judge prompt \"coherent\" has no {answer}",
            ),
            (
                "type: free_form_judge_0_100\n  system",
                "type: free_form\n  system",
                "q.yaml:15: question \"tea_json\": type \"free_form\" is not supported",
            ),
            ("&n 3", "&n three", "q.yaml:8: "),
        ] {
            let changed = FILE.replacen(from, to, 1);
            assert_ne!(changed, FILE);
            let message = error(&changed);
            assert!(message.starts_with(expected), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        assert!(error("[]").contains("holds no questions"));
        assert!(error("- id: [").starts_with("q.yaml:"));
    }

    fn made_question(id: &str, system: Option<&str>) -> Question {
        Question {
            id: id.into(),
            system: system.map(Into::into),
            paraphrases: vec!["Tea?".into()],
            samples_per_paraphrase: 1,
            judge_prompts: BTreeMap::new(),
        }
    }

    #[test]
    fn formats_are_made_from_natural_and_json_questions() {
        let file = vec![
            made_question("tea", None),
            made_question("tea_json", Some("JSON!")),
            made_question("tea_template", None),
        ];
        let made = with_made(file.clone(), &[Format::Natural, Format::Json, Format::Template]);
        assert_eq!(made, file, "nothing but what the file has");
        let made = with_made(file, &Format::ALL);
        let ids: Vec<&str> = made[3..].iter().map(|question| question.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "tea_yaml",
                "tea_xml",
                "tea_csv",
                "tea_function_call",
                "tea_limited",
                "tea_json_prompt_dropped",
                "tea_json_constrained"
            ]
        );
        assert!(made[3..].iter().all(|question| question.format() != Format::Natural));
        assert_eq!((made[8].system.as_deref(), made[9].system.as_deref()), (None, Some("JSON!")));
    }
}
