//! The counts as a table of plain text, for a terminal.

use std::fmt::Write;

use super::text::percent;
use crate::study::analyze::Summary;
use crate::study::questions::Format;

/// The rates by condition and format, a line each.
pub fn plain(summary: &Summary) -> String {
    let heads = ["condition", "format", "n", "none", "incoherent", "kept", "misaligned", "rate", "interval"];
    let mut lines = vec![heads.map(String::from)];
    for group in summary.by_condition_format.iter().chain(&summary.by_condition) {
        let (counts, rate) = (&group.counts, group.misaligned_of_kept);
        lines.push([
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
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (i, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ = if i < 2 { write!(text, "{cell:<width$}  ") } else { write!(text, "{cell:>width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let unjudged = summary.total.counts.unjudged;
    if unjudged > 0 {
        let _ = writeln!(text, "{unjudged} answers are not judged yet");
    }
    text
}

/// Names come from files: none may steer the terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
