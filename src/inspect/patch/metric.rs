//! What is read off a run at the end of a prompt.

use serde::Serialize;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// logit(yes) − logit(no) of the next token.
    Logits {
        /// The token that is wanted.
        yes: u32,
        /// The one that it is measured against.
        no: u32,
    },
    /// Σ ln p of the tokens of an answer, each after those before it.
    Answer(Vec<u32>),
}

impl Metric {
    /// The tokens it speaks of.
    pub(super) fn tokens(&self) -> Vec<u32> {
        match self {
            Self::Logits { yes, no } => vec![*yes, *no],
            Self::Answer(answer) => answer.clone(),
        }
    }

    /// The text that is run: the prompt, and of an answer all that something is predicted from.
    pub(super) fn text(&self, prompt: &[u32]) -> Vec<u32> {
        let more = match self {
            Self::Logits { .. } => &[][..],
            Self::Answer(answer) => &answer[..answer.len().saturating_sub(1)],
        };
        [prompt, more].concat()
    }
}
