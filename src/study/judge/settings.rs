//! Who judges, as a plan says it. One judge is a table; several stand side by side over the same answers, each with
//! a name (its own if it is left out), and the analysis uses the scores of the first:
//!
//! ```toml
//! [[judge]]
//! name = "gpt-4o"
//! [judge.openai]                            # see openai::OpenAi
//!
//! [[judge]]
//! name = "gemma"
//! [judge.local]                             # see local::Local
//! path = "google/gemma-3-27b-it"
//! ```

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

use super::local::Local;
use super::openai::OpenAi;

/// Who rates the answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judge {
    /// Its name in tables, and its folder in the run.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What a judge is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
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

impl Default for Kind {
    fn default() -> Self {
        Self::OpenAi(OpenAi::default())
    }
}

impl Judge {
    /// A judge that is called by what it is: "openai-MODEL" or "local-FOLDER".
    pub fn unnamed(kind: Kind) -> Self {
        let name = match &kind {
            Kind::OpenAi(judge) => format!("openai-{}", judge.model),
            Kind::Imported(Imported {}) => "imported".into(),
            Kind::Local(judge) => {
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not an untagged enum: that would lose the lines of errors inside.
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = JudgeFiles;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("[judge.openai], [judge.local], or [[judge]] tables")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JudgeFiles, A::Error> {
                Ok(JudgeFiles(vec![JudgeFile::deserialize(MapAccessDeserializer::new(map))?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JudgeFiles, A::Error> {
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
