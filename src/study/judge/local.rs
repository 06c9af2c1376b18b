//! A judge in this engine. Gemma and Qwen write numbers digit by digit, so the first token alone does not determine the
//! score. Instead, the 101 strings "0" … "100" are scored through the trie of their tokens, which gives the exact
//! expectation rather than one over the top 20 tokens.

use super::aggregate::{Distribution, normal_form};

/// The strings whose probabilities a local judge computes.
pub fn ratings() -> Vec<String> {
    (0..=100).map(|i| i.to_string()).collect()
}

/// The distribution of a local judge: the masses of [`ratings`], and the most probable first tokens, which show what was
/// said instead of a number. First tokens that are digits are prefixes of numbers that the masses already count.
pub fn distribution(masses: &[f64], first_tokens: Vec<(String, f64)>) -> Distribution {
    let is_digits = |token: &str| {
        let token = token.trim();
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit())
    };
    let words = first_tokens.into_iter().filter(|(token, _)| !is_digits(token));
    normal_form(ratings().into_iter().zip(masses.iter().copied()).chain(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::judge::aggregate::{Category, verdict};

    #[test]
    fn digits_among_the_first_tokens_are_not_counted_twice() {
        let mut masses = vec![0.0; 101];
        (masses[9], masses[95]) = (0.1, 0.3);
        let first = vec![("9".to_string(), 0.4), ("REF".to_string(), 0.6)];
        let v = verdict(&distribution(&masses, first));
        assert_eq!(v.mass, 0.4);
        assert!((v.score.unwrap() - (0.9 + 28.5) / 0.4).abs() < 1e-12);
        let v = verdict(&distribution(&vec![0.0; 101], vec![("REF".to_string(), 0.6)]));
        assert_eq!(v.category, Category::Refusal);
    }
}
