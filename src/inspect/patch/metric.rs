//! [`Metric`]: the number that is read at the end of a run.

use serde::Serialize;

/// The number that patching changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// logit(yes) − logit(no) of the next token.
    Logits {
        /// The token in question.
        yes: u32,
        /// The token that it is compared with.
        no: u32,
    },
    /// Σ ln p of the tokens of an answer, each given the tokens before it.
    Answer(Vec<u32>),
}

impl Metric {
    /// The tokens that it refers to.
    pub(super) fn tokens(&self) -> Vec<u32> {
        match self {
            Self::Logits { yes, no } => vec![*yes, *no],
            Self::Answer(answer) => answer.clone(),
        }
    }

    /// The text that is run: the prompt, and all tokens of an answer but the last, from which nothing is predicted.
    pub(super) fn text(&self, prompt: &[u32]) -> Vec<u32> {
        let more = match self {
            Self::Logits { .. } => &[][..],
            Self::Answer(answer) => &answer[..answer.len().saturating_sub(1)],
        };
        [prompt, more].concat()
    }
}
