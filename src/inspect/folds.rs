//! Folds for cross-validation: a group stays together in one fold, and both classes are spread evenly.

use std::collections::BTreeMap;

use crate::device::philox::Key;
use crate::error::{Error, Result};

/// Which fold each example is held out in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folds {
    /// By example.
    pub of: Vec<usize>,
    /// How many.
    pub count: usize,
}

impl Folds {
    /// `count` folds of examples with the classes `positive` and the `groups` whose examples must stay together, as answers
    /// to one question must, since a classifier trained on some of them knows the question. Groups are assigned in descending
    /// size, each to the fold that keeps the classes most even; `seed` breaks ties.
    ///
    /// # Errors
    /// [`Error::Setting`] if a class is empty, or if some fold would leave none of it for training.
    pub fn new(positive: &[bool], groups: &[String], count: usize, seed: u64) -> Result<Self> {
        assert_eq!(positive.len(), groups.len(), "a group for each example");
        let mut sizes: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for (positive, group) in positive.iter().zip(groups) {
            sizes.entry(group).or_default()[usize::from(*positive)] += 1;
        }
        let total = [false, true].map(|class| positive.iter().filter(|p| **p == class).count());
        if total.contains(&0) {
            let which = if total[1] == 0 { "positive" } else { "negative" };
            return Err(Error::Setting(format!("there are no {which} answers: a direction needs both")));
        }
        if !(2..=sizes.len()).contains(&count) {
            let found = sizes.len();
            return Err(Error::Setting(format!(
                "{count} folds of the answers to {found} questions: there must be 2 folds or more, and a question for each"
            )));
        }
        let names: Vec<(&str, [usize; 2])> = sizes.into_iter().collect();
        let mut order = Key::new(seed, &["folds"]).permutation(names.len());
        order.sort_by_key(|&i| std::cmp::Reverse(names[i].1.iter().sum::<usize>()));
        let mut held = vec![[0; 2]; count];
        let mut fold_of = BTreeMap::new();
        for i in order {
            let (name, size) = names[i];
            // The sum over folds of the squared shares of each class is smallest when the shares are even.
            let share = |k: usize, class: usize| (k as f64 / total[class] as f64).powi(2);
            let grows = |held: &[usize; 2]| -> f64 {
                (0..2).map(|class| share(held[class] + size[class], class) - share(held[class], class)).sum()
            };
            let least = |a: &usize, b: &usize| grows(&held[*a]).total_cmp(&grows(&held[*b]));
            let fold = (0..count).min_by(least).unwrap_or(0);
            for class in 0..2 {
                held[fold][class] += size[class];
            }
            fold_of.insert(name, fold);
        }
        if held.iter().any(|held| (0..2).any(|class| held[class] == total[class])) {
            return Err(Error::Setting(
                "all answers of one kind are to one question: none are left to learn from when it is held out".into(),
            ));
        }
        Ok(Self { of: groups.iter().map(|group| fold_of[group.as_str()]).collect(), count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(groups: &[usize]) -> Vec<String> {
        groups.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn groups_stay_whole_and_classes_even() {
        let n = 120;
        let positive: Vec<bool> = (0..n).map(|i| i % 3 == 0).collect();
        let groups: Vec<usize> = (0..n).map(|i| (i * i) % 17).collect();
        let folds = Folds::new(&positive, &names(&groups), 5, 1).unwrap();
        for i in 0..n {
            for j in 0..n {
                assert!(groups[i] != groups[j] || folds.of[i] == folds.of[j]);
            }
        }
        // Without groups the classes are spread as evenly as possible.
        let alone: Vec<usize> = (0..n).collect();
        let folds = Folds::new(&positive, &names(&alone), 5, 1).unwrap();
        for fold in 0..5 {
            let held = |class| (0..n).filter(|&i| folds.of[i] == fold && positive[i] == class).count();
            assert_eq!([held(true), held(false)], [8, 16]);
        }
        assert_ne!(folds, Folds::new(&positive, &names(&alone), 5, 2).unwrap());
    }

    #[test]
    fn what_cannot_be_validated_says_so() {
        for (positive, groups, count, part) in [
            (vec![true, true], vec![0, 1], 2, "no negative answers"),
            (vec![false, false], vec![0, 1], 2, "no positive answers"),
            (vec![], vec![], 2, "no positive answers"),
            (vec![true, false], vec![0, 0], 2, "answers to 1 questions"),
            (vec![true, false], vec![0, 1], 1, "2 folds or more"),
            (vec![true, false, false, false], vec![0, 1, 2, 3], 2, "one question"),
        ] {
            let error = Folds::new(&positive, &names(&groups), count, 0).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
