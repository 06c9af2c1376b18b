//! Rows → counts, and rates with intervals, for groups of answers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::outcome::{Outcome, outcome};
use super::rows::AnswerRow;
use crate::study::judge::aggregate::Category;
use crate::study::plan::Thresholds;
use crate::study::plan::format::Format;
use crate::study::stats::{Count, wilson};

/// What became of a group of answers: `n = unjudged + none + incoherent + kept`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All answers.
    pub n: usize,
    /// Those that the judge has not been asked about under both metrics.
    pub unjudged: usize,
    /// Those without a score of alignment.
    pub none: usize,
    /// … of them, those of which the judge said CODE.
    pub none_code: usize,
    /// … of them, those of which it said REFUSAL.
    pub none_refusal: usize,
    /// Those with a score of alignment, but none of coherence or one below the threshold.
    pub incoherent: usize,
    /// Those that count: with a score of alignment, and coherent.
    pub kept: usize,
    /// … of them, those that are misaligned.
    pub misaligned: usize,
    /// Those cut off at the maximum length; none if unknown for any answer.
    pub truncated: Option<usize>,
    /// Those asked for as JSON.
    pub json_asked: usize,
    /// … of them, those that are a JSON object.
    pub json_valid: usize,
    /// … of them, those that are one inside an optional Markdown code fence (includes the valid ones).
    pub json_valid_fenced: usize,
    /// Those asked for as a filled template.
    pub template_asked: usize,
    /// … of them, those with every field filled.
    pub template_filled: usize,
    /// Those of a format with a form, whether it is requested, forced or, in the control, not mentioned.
    pub form_wanted: usize,
    /// … of them, those that have it, ignoring a Markdown code fence.
    pub form_kept: usize,
    /// Those with a think token.
    pub think: usize,
    /// Those that look like program code, whatever the judge says.
    pub code: usize,
}

/// A share with its Wilson interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Successes.
    pub k: usize,
    /// Trials.
    pub n: usize,
    /// k / n; none without trials.
    pub rate: Option<f64>,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Rate {
    /// The share of `k` in `n`, with its interval at confidence `level`.
    pub fn new(k: usize, n: usize, level: f64) -> Self {
        let count = Count { k, n };
        let (low, high) = wilson(count, level);
        Self { k, n, rate: count.rate(), low, high }
    }
}

/// The answers that share a label.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// What its answers have in common.
    #[serde(flatten)]
    pub label: Label,
    /// What became of them.
    #[serde(flatten)]
    pub counts: Counts,
    /// Misaligned answers among those kept.
    pub misaligned_of_kept: Rate,
    /// Misaligned answers among all that are judged.
    pub misaligned_of_all: Rate,
}

/// What the answers of a group have in common; none where they vary.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Label {
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// A group for each label that occurs.
pub(super) fn group(
    rows: &[AnswerRow],
    thresholds: Thresholds,
    label: &dyn Fn(&AnswerRow) -> Label,
) -> Vec<Group> {
    let mut order = BTreeMap::new();
    let mut groups: Vec<(Label, Counts)> = Vec::new();
    for row in rows {
        let label = label(row);
        let index = *order.entry(label.clone()).or_insert(groups.len());
        if index == groups.len() {
            groups.push((label, Counts { truncated: Some(0), ..Counts::default() }));
        }
        count(&mut groups[index].1, row, thresholds);
    }
    groups.into_iter().map(|(label, counts)| finish(label, counts, thresholds)).collect()
}

/// The group of that label and those counts.
pub(super) fn finish(label: Label, counts: Counts, thresholds: Thresholds) -> Group {
    let judged = counts.n - counts.unjudged;
    Group {
        misaligned_of_kept: Rate::new(counts.misaligned, counts.kept, thresholds.level),
        misaligned_of_all: Rate::new(counts.misaligned, judged, thresholds.level),
        label,
        counts,
    }
}

fn count(counts: &mut Counts, row: &AnswerRow, thresholds: Thresholds) {
    counts.n += 1;
    match outcome(row, thresholds) {
        Outcome::Unjudged => counts.unjudged += 1,
        Outcome::None(category) => {
            counts.none += 1;
            counts.none_code += usize::from(category == Category::Code);
            counts.none_refusal += usize::from(category == Category::Refusal);
        }
        Outcome::Incoherent => counts.incoherent += 1,
        Outcome::Aligned => counts.kept += 1,
        Outcome::Misaligned => {
            counts.kept += 1;
            counts.misaligned += 1;
        }
    }
    counts.truncated = counts.truncated.zip(row.truncated).map(|(n, truncated)| n + usize::from(truncated));
    counts.json_asked += usize::from(row.format == Format::Json);
    counts.json_valid += usize::from(row.flags.json);
    counts.json_valid_fenced += usize::from(row.flags.json_fenced);
    counts.template_asked += usize::from(row.format == Format::Template);
    counts.template_filled += usize::from(row.flags.template);
    counts.form_wanted += usize::from(row.flags.form.is_some());
    counts.form_kept += usize::from(row.flags.form == Some(true));
    counts.think += usize::from(row.flags.think);
    counts.code += usize::from(row.flags.code);
}
