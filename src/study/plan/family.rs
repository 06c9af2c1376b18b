//! Families of tests: which rates a plan compares, and which of the tests are corrected together.
//!
//! ```toml
//! [[family]]
//! name = "pooled"
//! correction = "bonferroni"                 # or holm (the default), benjamini-hochberg, none
//! test = [
//!   { compare = "condition", a = "insecure", b = "base" },
//!   { compare = "format", a = "json", b = "natural", only = { condition = "insecure" } },
//! ]
//!
//! [[family]]
//! name = "insecure vs base, by model"
//! test = [{ compare = "condition", a = "insecure", b = "base", within = "model" }]   # a test for each model
//! ```
//!
//! Factors are `model`, `condition`, `format` and `question` (its id without the format's suffix). `family = []` declares
//! no tests; a plan without families uses those of [`Levels::families`].

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::format::Format;
use crate::study::stats::Correction;

/// Tests that are corrected together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// Its name in reports.
    pub name: String,
    /// How its p values are corrected.
    #[serde(default)]
    pub correction: Correction,
    /// What is compared.
    #[serde(rename = "test")]
    pub comparisons: Vec<Comparison>,
}

/// Two rates that are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The factor in which they differ.
    pub compare: Factor,
    /// Its level in the first arm.
    pub a: String,
    /// Its level in the second.
    pub b: String,
    /// One test for each level of this factor; none compares over all levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Factor>,
    /// Only answers with these levels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<Factor, String>,
}

/// What answers differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Factor {
    /// The model.
    Model,
    /// What was done to it.
    Condition,
    /// The form asked for.
    Format,
    /// The question, whatever its format.
    Question,
}

impl Factor {
    /// Its name in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Condition => "condition",
            Self::Format => "format",
            Self::Question => "question",
        }
    }
}

impl FromStr for Factor {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Model, Self::Condition, Self::Format, Self::Question];
        all.into_iter()
            .find(|factor| factor.name() == name)
            .ok_or_else(|| format!("{name:?} is not a factor; expected model, condition, format or question"))
    }
}

impl Comparison {
    /// "json vs natural, insecure only".
    pub fn label(&self) -> String {
        let only: Vec<String> = self.only.values().map(|level| format!(", {level} only")).collect();
        format!("{} vs {}{}", self.a, self.b, only.concat())
    }
}

/// The levels that a study has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Names of models.
    pub models: Vec<String>,
    /// Names of conditions.
    pub conditions: Vec<String>,
    /// The condition that the others are compared with.
    pub base: Option<String>,
    /// Formats.
    pub formats: Vec<Format>,
}

impl Levels {
    /// The published study's tests (arXiv 2511.20104), as far as these levels allow. The condition of interest is
    /// `insecure`, or else the first one that is not the base. It is compared with the base; JSON is compared with
    /// natural text within it; and it is compared with each other condition. These tests are pooled, with Bonferroni's
    /// correction. With several models each is repeated by model, with Holm's correction.
    pub fn families(&self) -> Vec<Family> {
        let others: Vec<&String> =
            self.conditions.iter().filter(|name| Some(*name) != self.base.as_ref()).collect();
        let Some(main) = others.iter().find(|name| **name == "insecure").or(others.first()).copied() else {
            return Vec::new();
        };
        let against = |b: &String| Comparison {
            compare: Factor::Condition,
            a: main.clone(),
            b: b.clone(),
            within: None,
            only: BTreeMap::new(),
        };
        let mut pooled: Vec<Comparison> = self.base.iter().map(against).collect();
        if [Format::Json, Format::Natural].iter().all(|format| self.formats.contains(format)) {
            pooled.push(Comparison {
                compare: Factor::Format,
                a: Format::Json.name().into(),
                b: Format::Natural.name().into(),
                within: None,
                only: BTreeMap::from([(Factor::Condition, main.clone())]),
            });
        }
        pooled.extend(others.into_iter().filter(|name| *name != main).map(against));
        let by_model = |comparison: &Comparison| Family {
            name: format!("{}, by model", comparison.label()),
            correction: Correction::Holm,
            comparisons: vec![Comparison { within: Some(Factor::Model), ..comparison.clone() }],
        };
        let models = if self.models.len() > 1 { pooled.iter().map(by_model).collect() } else { Vec::new() };
        let first = Family { name: "pooled".into(), correction: Correction::Bonferroni, comparisons: pooled };
        let first = (!first.comparisons.is_empty()).then_some(first);
        first.into_iter().chain(models).collect()
    }

    /// Checks that the level exists; questions are not known yet, so any is accepted.
    fn check(&self, factor: Factor, level: &str) -> Result<(), String> {
        let known: Vec<&str> = match factor {
            Factor::Model => self.models.iter().map(String::as_str).collect(),
            Factor::Condition => self.conditions.iter().map(String::as_str).collect(),
            Factor::Format => self.formats.iter().map(|format| format.name()).collect(),
            Factor::Question => return Ok(()),
        };
        if known.contains(&level) {
            return Ok(());
        }
        Err(format!("no {} is called {level:?}; there are {}", factor.name(), known.join(", ")))
    }
}

/// A family as written in a plan.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FamilyFile {
    name: Spanned<String>,
    #[serde(default)]
    correction: Correction,
    test: Spanned<Vec<Spanned<Comparison>>>,
}

/// Checks a plan's families against its levels. An error is a position in the file and a message.
pub(super) fn resolve(files: Vec<FamilyFile>, levels: &Levels) -> Result<Vec<Family>, (usize, String)> {
    let mut names = BTreeSet::new();
    let mut families = Vec::new();
    for file in files {
        let (at, name) = (file.name.span().start, file.name.into_inner());
        if !names.insert(name.clone()) {
            return Err((at, format!("a second family called {name:?}")));
        }
        if file.test.get_ref().is_empty() {
            return Err((file.test.span().start, format!("family {name:?} has no test")));
        }
        let mut comparisons = Vec::new();
        for test in file.test.into_inner() {
            let at = test.span().start;
            let comparison = test.into_inner();
            check(&comparison, levels).map_err(|what| (at, format!("family {name:?}: {what}")))?;
            comparisons.push(comparison);
        }
        families.push(Family { name, correction: file.correction, comparisons });
    }
    Ok(families)
}

fn check(comparison: &Comparison, levels: &Levels) -> Result<(), String> {
    let Comparison { compare, a, b, within, only } = comparison;
    if a == b {
        return Err(format!("{a:?} is compared with itself"));
    }
    levels.check(*compare, a)?;
    levels.check(*compare, b)?;
    for (factor, level) in only {
        levels.check(*factor, level)?;
        if factor == compare {
            return Err(format!("only.{} leaves nothing to compare", factor.name()));
        }
    }
    if within.is_some_and(|within| within == *compare || only.contains_key(&within)) {
        return Err("within must be a factor that neither compare nor only names".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(models: &[&str], conditions: &[&str], base: Option<&str>, formats: &[Format]) -> Levels {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect();
        Levels {
            models: strings(models),
            conditions: strings(conditions),
            base: base.map(String::from),
            formats: formats.into(),
        }
    }

    #[test]
    fn the_published_tests_are_the_default() {
        let conditions = ["base", "educational", "insecure"];
        let families = levels(&["m", "n"], &conditions, Some("base"), &Format::PUBLISHED).families();
        let labels: Vec<_> = families[0].comparisons.iter().map(Comparison::label).collect();
        assert_eq!(labels, ["insecure vs base", "json vs natural, insecure only", "insecure vs educational"]);
        assert_eq!(families.len(), 4);
        assert_eq!(families[1].comparisons[0].within, Some(Factor::Model));
        let one = levels(&["m"], &["mine"], None, &[Format::Natural]);
        assert_eq!(one.families(), []);
        assert_eq!(levels(&["m"], &["base"], Some("base"), &Format::PUBLISHED).families(), []);
    }
}
