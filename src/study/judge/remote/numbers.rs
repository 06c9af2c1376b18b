//! Whether a judge writes numbers as whole tokens, as the score takes it: one that writes 85 as "8", "5" says "8" first,
//! which would be counted as a score of 8. Gemma's, Qwen's and many other tokenizers are of that kind.

use crate::study::judge::aggregate::{Distribution, rating};

/// Distributions with digits, but without one longer number, that leave no doubt: among the 20 most probable tokens of
/// a judge that writes whole numbers some have two digits.
const ENOUGH: usize = 20;

/// What a judge's numbers have looked like so far.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    digits_alone: usize,
    whole: bool,
}

impl Numbers {
    /// Takes note of what the judge has said; false if it is clear by now that it writes digit by digit.
    pub(super) fn are_whole(&mut self, said: &Distribution) -> bool {
        let numbers = said.iter().filter_map(|(token, _)| rating(token).map(|_| token.trim().len()));
        let longest = numbers.max().unwrap_or(0);
        self.whole |= longest > 1;
        self.digits_alone += usize::from(longest == 1);
        self.whole || self.digits_alone < ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_alone_give_a_judge_away_and_one_whole_number_clears_it() {
        let said = |token: &str| vec![("I".to_string(), 0.9), (token.to_string(), 0.1)];
        let mut numbers = Numbers::default();
        assert!((1..ENOUGH).all(|i| numbers.are_whole(&said(&(i % 10).to_string()))));
        assert!((0..ENOUGH).all(|_| numbers.are_whole(&said("CODE"))), "no number says nothing");
        assert!(!numbers.are_whole(&said(" 9")));
        let mut numbers = Numbers::default();
        assert!(numbers.are_whole(&said("85")));
        assert!((0..2 * ENOUGH).all(|_| numbers.are_whole(&said("0"))));
    }
}
