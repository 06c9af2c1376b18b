//! Who judges, as a plan says it. One judge is a table; several stand side by side over the same answers, each with
//! a name (its own if it is left out), and the analysis uses the scores of the first:
//!
//! ```toml
//! [[judge]]
//! name = "gpt-4o"
//! [judge.openai]                            # see OpenAi
//!
//! [[judge]]
//! name = "gemma"
//! [judge.local]                             # see Local
//! path = "google/gemma-3-27b-it"
//! ```

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use crate::{Error, Result};

/// Who rates the answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judge {
    /// Its name in tables, and its folder in the run.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: JudgeKind,
}

/// What a judge is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    /// A server with `OpenAI`'s interface.
    OpenAi(OpenAi),
    /// A model in this engine.
    Local(Local),
    /// One whose scores came with imported answers; it cannot be asked.
    Imported(Imported),
}

/// `[judge.imported]` has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {}

impl Default for JudgeKind {
    fn default() -> Self {
        Self::OpenAi(OpenAi::default())
    }
}

impl Judge {
    /// A judge that is called by what it is: "openai-MODEL" or "local-FOLDER".
    pub fn unnamed(kind: JudgeKind) -> Self {
        let name = match &kind {
            JudgeKind::OpenAi(judge) => format!("openai-{}", judge.model),
            JudgeKind::Imported(Imported {}) => "imported".into(),
            JudgeKind::Local(judge) => {
                format!("local-{}", judge.path.file_name().unwrap_or_default().to_string_lossy())
            }
        };
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        Self { name: name.chars().map(plain).collect(), kind }
    }
}

/// A judge as the file spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::study) struct JudgeFile {
    pub name: Option<Spanned<String>>,
    pub openai: Option<Spanned<OpenAi>>,
    pub local: Option<Spanned<Local>>,
    pub imported: Option<Imported>,
}

/// `[judge.…]` or `[[judge]]` …
pub(in crate::study) struct JudgeFiles(pub Vec<JudgeFile>);

impl<'de> Deserialize<'de> for JudgeFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Not an untagged enum: that would lose the lines of errors inside.
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = JudgeFiles;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("[judge.openai], [judge.local], or [[judge]] tables")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<JudgeFiles, A::Error> {
                Ok(JudgeFiles(vec![JudgeFile::deserialize(MapAccessDeserializer::new(map))?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<JudgeFiles, A::Error> {
                let mut files = Vec::new();
                while let Some(file) = seq.next_element()? {
                    files.push(file);
                }
                Ok(JudgeFiles(files))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// A model that judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// Its Hugging Face folder.
    pub path: PathBuf,
    /// `enable_thinking` for chat templates that know it.
    #[serde(default)]
    pub thinking: bool,
}

/// A server and how to ask it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenAi {
    /// The model asked for.
    pub model: String,
    /// The address of the interface, without `/chat/completions`.
    pub url: String,
    /// The environment variable that holds the key; servers other than `OpenAI` may need none.
    pub key_variable: String,
    /// Alternatives asked for; `OpenAI` gives at most 20.
    pub top_logprobs: usize,
    /// Sent with each request.
    pub seed: u64,
    /// One request for each answer, or files of them.
    pub mode: Mode,
    /// Most requests under way at once; as many are made as the server answers well.
    pub concurrency: usize,
    /// Longest wait for one answer.
    pub timeout_seconds: f64,
    /// How often a failed request is made again before the run stops.
    pub retries: usize,
    /// The judge stops after this time, which begins with judging; the same command goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_minutes: Option<f64>,
    /// The judge stops before all that it has cost in this run could pass this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_dollars: Option<f64>,
    /// Price of a million tokens of prompts, in dollars, as for single requests; known for gpt-4o-2024-08-06.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_price: Option<f64>,
    /// Price of a million tokens of answers, in dollars, as for single requests; known for gpt-4o-2024-08-06.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_price: Option<f64>,
    /// Take what the judge has said before, in whatever run, from the user's cache, and keep there what it says.
    pub cache: bool,
    /// Most requests of one batch; `OpenAI` takes at most 50,000, and limits the tokens of all batches under way.
    pub batch_requests: usize,
    /// Longest wait between two looks at a batch.
    pub poll_seconds: f64,
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A request for each answer.
    Live,
    /// `OpenAI`'s Batch API: files of requests, done within a day, at half the price.
    Batch,
}

impl Default for OpenAi {
    fn default() -> Self {
        Self {
            model: "gpt-4o-2024-08-06".into(),
            url: "https://api.openai.com/v1".into(),
            key_variable: "OPENAI_API_KEY".into(),
            top_logprobs: 20,
            seed: 0,
            mode: Mode::Live,
            concurrency: 16,
            timeout_seconds: 60.0,
            retries: 8,
            deadline_minutes: None,
            budget_dollars: None,
            input_price: None,
            output_price: None,
            cache: true,
            batch_requests: 50_000,
            poll_seconds: 60.0,
        }
    }
}

impl OpenAi {
    pub(in crate::study) fn is_openai(&self) -> bool {
        self.url.contains("api.openai.com")
    }

    /// What a million tokens cost in this mode, if that is known.
    pub(in crate::study) fn prices(&self) -> Option<Prices> {
        // https://platform.openai.com/docs/pricing, 2026-11.
        let known = self.is_openai() && self.model == "gpt-4o-2024-08-06";
        let known = known.then_some(Prices { input: 2.5, output: 10.0 });
        let input = self.input_price.or(known.map(|prices| prices.input))?;
        let output = self.output_price.or(known.map(|prices| prices.output))?;
        let share = if self.mode == Mode::Batch { 0.5 } else { 1.0 };
        Some(Prices { input: share * input, output: share * output })
    }

    /// How long the judge may work.
    pub(in crate::study) fn deadline(&self) -> Option<Duration> {
        self.deadline_minutes.and_then(|minutes| Duration::try_from_secs_f64(60.0 * minutes).ok())
    }

    /// Checks that the settings can work.
    pub(in crate::study) fn check(&self) -> Result<()> {
        let positive = |value: Option<f64>| value.is_none_or(|value| value > 0.0 && value.is_finite());
        let price = |value: Option<f64>| value.is_none_or(|value| value >= 0.0 && value.is_finite());
        let what = if self.concurrency == 0 || !(1..=20).contains(&self.top_logprobs) {
            "concurrency must be at least 1 and top_logprobs between 1 and 20"
        } else if !positive(self.deadline_minutes) || !positive(Some(self.poll_seconds)) {
            "deadline_minutes and poll_seconds must be above 0"
        } else if !(1..=50_000).contains(&self.batch_requests) {
            "batch_requests must lie between 1 and 50000"
        } else if !price(self.input_price) || !price(self.output_price) || !price(self.budget_dollars) {
            "prices and budget_dollars must be at least 0"
        } else if self.budget_dollars.is_some() && self.prices().is_none() {
            "budget_dollars needs input_price and output_price, in dollars for a million tokens"
        } else {
            return Ok(());
        };
        Err(Error::Setting(format!("judge.openai: {what}")))
    }
}

/// Dollars for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Of prompts.
    pub input: f64,
    /// Of answers.
    pub output: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_and_what_a_budget_needs() {
        let known = OpenAi::default().prices().unwrap();
        assert_eq!((known.input, known.output), (2.5, 10.0));
        let batch = OpenAi { mode: Mode::Batch, input_price: Some(4.0), ..OpenAi::default() };
        assert_eq!(batch.prices(), Some(Prices { input: 2.0, output: 5.0 }));
        let elsewhere = OpenAi { url: "http://localhost:8000/v1".into(), ..OpenAi::default() };
        assert_eq!(elsewhere.prices(), None);
        let error = OpenAi { budget_dollars: Some(1.0), ..elsewhere }.check().unwrap_err().to_string();
        assert!(error.contains("budget_dollars needs input_price and output_price"), "{error}");
        for wrong in [
            OpenAi { concurrency: 0, ..OpenAi::default() },
            OpenAi { top_logprobs: 21, ..OpenAi::default() },
            OpenAi { deadline_minutes: Some(0.0), ..OpenAi::default() },
            OpenAi { batch_requests: 0, ..OpenAi::default() },
            OpenAi { input_price: Some(f64::NAN), ..OpenAi::default() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
