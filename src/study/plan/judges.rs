//! The judges of a plan. A single judge is a table; several judges rate the same answers, each under a name (derived from
//! its kind if omitted), and the analysis uses the scores of the first:
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
    /// The kind of judge.
    #[serde(flatten)]
    pub kind: JudgeKind,
}

/// The kinds of judges.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    /// A server with `OpenAI`'s interface.
    OpenAi(OpenAi),
    /// A model in this engine.
    Local(Local),
    /// A judge whose scores were imported with the answers; it cannot be asked.
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
    /// A judge named after its kind: "openai-MODEL" or "local-FOLDER".
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
        // Not an untagged enum, which would lose the line numbers of errors inside.
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
    /// Maximum number of requests in flight; the actual number adapts to the server.
    pub concurrency: usize,
    /// Timeout of one request.
    pub timeout_seconds: f64,
    /// How often a failed request is retried before the run stops.
    pub retries: usize,
    /// Judging stops after this time; running the same command again continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_minutes: Option<f64>,
    /// Judging stops before the total cost in this run could exceed this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_dollars: Option<f64>,
    /// Price of a million tokens of prompts, in dollars, as for single requests; known for gpt-4o-2024-08-06.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_price: Option<f64>,
    /// Price of a million tokens of answers, in dollars, as for single requests; known for gpt-4o-2024-08-06.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_price: Option<f64>,
    /// Reuse what the judge has said before, in any run, from the user's cache, and add new judgements to it.
    pub cache: bool,
    /// Maximum number of requests per batch; `OpenAI` accepts at most 50,000, and limits the tokens of all batches in
    /// flight.
    pub batch_requests: usize,
    /// Longest interval between two polls of a batch.
    pub poll_seconds: f64,
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One request per answer.
    Live,
    /// `OpenAI`'s Batch API: files of requests, answered within a day, at half the price.
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

    /// Prices in this mode, if known.
    pub(in crate::study) fn prices(&self) -> Option<Prices> {
        // https://platform.openai.com/docs/pricing, 2026-11.
        let known = self.is_openai() && self.model == "gpt-4o-2024-08-06";
        let known = known.then_some(Prices { input: 2.5, output: 10.0 });
        let input = self.input_price.or(known.map(|prices| prices.input))?;
        let output = self.output_price.or(known.map(|prices| prices.output))?;
        let share = if self.mode == Mode::Batch { 0.5 } else { 1.0 };
        Some(Prices { input: share * input, output: share * output })
    }

    /// How long judging may take.
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

/// Dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// For prompts.
    pub input: f64,
    /// For answers.
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
