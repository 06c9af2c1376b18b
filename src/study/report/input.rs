//! What a report is made of.

use crate::study::analyze::Summary;
use crate::study::analyze::agreement::pairs::Pairs;
use crate::study::analyze::rows::AnswerRow;
use crate::study::plan::Plan;

/// See the module.
pub struct Report<'a> {
    /// Its heading.
    pub title: &'a str,
    /// A notice above everything else, for example that this is a toy; empty for none.
    pub notice: &'a str,
    /// The counts.
    pub summary: &'a Summary,
    /// The rows that were counted.
    pub rows: &'a [AnswerRow],
    /// The scores of the raters, two at a time, in the order of the summary's agreement.
    pub pairs: &'a [Pairs],
    /// How the answers were made and judged: names and values.
    pub method: &'a [(String, String)],
    /// The plan; none for tables from elsewhere.
    pub plan: Option<&'a Plan>,
}

impl Report<'_> {
    /// Number of a condition's colour: its place among the conditions.
    pub(super) fn colour(&self, condition: Option<&str>) -> usize {
        let conditions = &self.summary.by_condition;
        conditions.iter().position(|group| group.label.condition.as_deref() == condition).unwrap_or(0)
    }
}
