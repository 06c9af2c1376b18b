//! Dose–response: conditions that steer the same weights along the same direction with different doses.

use std::path::Path;

use serde::Serialize;

use super::counts::{Group, Rate};
use crate::model::direction::Kind;
use crate::study::plan::steering::Steering;
use crate::study::plan::{Condition, Plan};
use crate::study::stats::Count;
use crate::study::stats::proportion::Test;
use crate::study::stats::trend::cochran_armitage;

/// Conditions that differ in the dose.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DoseResponse {
    /// The direction: its kind, file and depths.
    pub direction: String,
    /// The condition whose fine-tuning is steered; none if it is the model as it is.
    pub of: Option<String>,
    /// By dose, the least first.
    pub doses: Vec<Dose>,
    /// Trend of misaligned answers among those that count, taking answers as independent. None if all doses are equal.
    pub cochran_armitage: Option<Test>,
}

/// A dose and what became of the answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dose {
    /// In multiples of the vector; 0 is not steered.
    pub dose: f64,
    /// The condition.
    pub condition: String,
    /// Misaligned among the answers that count.
    pub misaligned_of_kept: Rate,
    /// Answers that count, which are coherent, among those judged.
    pub kept_of_judged: Rate,
}

/// The dose–responses of a plan from its groups by condition, where there are two doses or more. The same weights without
/// steering are dose 0.
pub fn dose_responses(plan: &Plan, by_condition: &[Group], level: f64) -> Vec<DoseResponse> {
    let mut responses = Vec::new();
    let mut seen = Vec::new();
    for condition in &plan.conditions {
        let Some(steer) = dosed(condition) else { continue };
        if seen.contains(&key(condition)) {
            continue;
        }
        seen.push(key(condition));
        let belongs = |c: &&Condition| {
            key(c) == key(condition) || c.steer.is_none() && weights(c) == weights(condition)
        };
        let dose = |c: &Condition| {
            let group = by_condition.iter().find(|group| group.label.condition.as_ref() == Some(&c.name))?;
            Some(Dose {
                dose: dosed(c).and_then(|steer| steer.dose).unwrap_or(0.0),
                condition: c.name.clone(),
                misaligned_of_kept: group.misaligned_of_kept,
                kept_of_judged: Rate::new(group.counts.kept, group.misaligned_of_all.n, level),
            })
        };
        let mut doses: Vec<Dose> = plan.conditions.iter().filter(belongs).filter_map(dose).collect();
        doses.sort_by(|a, b| a.dose.total_cmp(&b.dose));
        if doses.len() < 2 {
            continue;
        }
        let count = |rate: Rate| Count { k: rate.k, n: rate.n };
        let counts: Vec<_> = doses.iter().map(|dose| (dose.dose, count(dose.misaligned_of_kept))).collect();
        responses.push(DoseResponse {
            direction: steer.place(),
            of: weights(condition).map(String::from),
            doses,
            cochran_armitage: cochran_armitage(&counts),
        });
    }
    responses
}

/// The steering of a condition that adds a direction.
fn dosed(condition: &Condition) -> Option<&Steering> {
    condition.steer.as_ref().filter(|steer| steer.dose.is_some())
}

/// What conditions of one dose–response have in common; none of a condition that has none.
fn key(condition: &Condition) -> Option<(Option<&str>, &Path, Kind, &[usize])> {
    dosed(condition)
        .map(|steer| (weights(condition), steer.direction.as_path(), steer.kind, &steer.depths[..]))
}

/// The condition whose fine-tuning answers; none for the model as it is.
fn weights(condition: &Condition) -> Option<&str> {
    condition.like.as_deref().or(condition.tuning.as_ref().map(|_| condition.name.as_str()))
}
