//! The counts as a table of plain text, for a terminal.

use std::fmt::Write;

use super::text::percent;
use crate::study::analyze::{Group, Summary};
use crate::study::format::Format;

/// The rates by condition and format, a line each.
pub fn plain(summary: &Summary) -> String {
    with_unjudged(table(summary.by_condition_format.iter().chain(&summary.by_condition)), summary)
}

/// The rates by model, condition and format, a line each.
pub fn plain_cells(summary: &Summary) -> String {
    with_unjudged(table(summary.cells.iter().chain(&summary.by_condition)), summary)
}

fn with_unjudged(mut text: String, summary: &Summary) -> String {
    let unjudged = summary.total.counts.unjudged;
    if unjudged > 0 {
        let _ = writeln!(text, "{unjudged} answers are not judged yet");
    }
    text
}

/// A line a group. The first column, the model, is left out if no group has one.
fn table<'a>(groups: impl Iterator<Item = &'a Group>) -> String {
    let heads =
        ["model", "condition", "format", "n", "none", "incoherent", "kept", "misaligned", "rate", "interval"];
    let mut lines = vec![heads.map(String::from)];
    for group in groups {
        let (counts, rate) = (&group.counts, group.misaligned_of_kept);
        lines.push([
            printable(group.label.model.as_deref().unwrap_or("all")),
            printable(group.label.condition.as_deref().unwrap_or_default()),
            group.label.format.map_or("all", Format::name).to_string(),
            counts.n.to_string(),
            counts.none.to_string(),
            counts.incoherent.to_string(),
            counts.kept.to_string(),
            counts.misaligned.to_string(),
            rate.rate.map_or("-".into(), percent),
            format!("{} to {}", percent(rate.low), percent(rate.high)),
        ]);
    }
    let first = usize::from(lines[1..].iter().all(|line| line[0] == "all"));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (i, (cell, &width)) in line.iter().zip(&widths).enumerate().skip(first) {
            let _ = if i < 3 { write!(text, "{cell:<width$}  ") } else { write!(text, "{cell:>width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Names come from files: none may steer the terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
