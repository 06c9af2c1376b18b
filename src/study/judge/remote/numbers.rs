//! Detects judges that do not write numbers as whole tokens, which the score assumes. A judge that writes 85 as "8", "5"
//! says "8" first, which would count as a score of 8. Gemma, Qwen and many others tokenise numbers this way.

use crate::study::judge::aggregate::{Distribution, rating};

/// So many distributions with single digits and no longer number leave no doubt: a judge that writes whole numbers has
/// two-digit tokens among its 20 most probable ones.
const ENOUGH: usize = 20;

/// What has been seen of a judge's numbers so far.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    digits_alone: usize,
    whole: bool,
}

impl Numbers {
    /// Records what the judge has said; false once it is clear that it writes digit by digit.
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
