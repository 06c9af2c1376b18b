//! [`Text`]: a text as tokens, some of which are the answer: the tokens that are learnt, scored or inspected.

/// A text as tokens, and which of them are the answer. In a text without a prompt, all are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Of each token, whether it belongs to the answer.
    pub answer: Vec<bool>,
}

impl Text {
    /// Number of tokens of the answer that can be predicted: the first token of a text cannot.
    pub fn targets(&self) -> usize {
        self.answer.iter().skip(1).filter(|answer| **answer).count()
    }

    /// Tokens that must pass through the model to predict the answer: those before its last token.
    pub fn inputs(&self) -> usize {
        self.answer.iter().rposition(|answer| *answer).unwrap_or(0)
    }
}
