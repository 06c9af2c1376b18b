//! [`Text`]: a text as tokens, and which of them are the answer: what is learnt, scored or looked at.

/// A text as tokens, and which of them are the answer. Of a text that no prompt precedes, all are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Of each token, whether it belongs to the answer.
    pub answer: Vec<bool>,
}

impl Text {
    /// How many tokens of the answer are predicted: all but one that the text begins with.
    pub fn targets(&self) -> usize {
        self.answer.iter().skip(1).filter(|answer| **answer).count()
    }

    /// Tokens that must pass through the model to predict the answer: those before its last token.
    pub fn inputs(&self) -> usize {
        self.answer.iter().rposition(|answer| *answer).unwrap_or(0)
    }
}
