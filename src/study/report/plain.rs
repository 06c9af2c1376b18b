//! The counts and the tests as tables of plain text, for a terminal.

use std::fmt::Write;

use super::section::{doses, inference};
use super::text::{p_value, percent, points, visible};
use crate::study::analyze::{DoseResponse, FamilyResult, FittedModel, Group, Summary};
use crate::study::plan::format::Format;

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

/// One line per group. The first column, the model, is omitted if no group has one.
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
    let lines: Vec<&[String]> = lines.iter().map(|line| &line[first..]).collect();
    aligned(&lines, 3 - first)
}

/// The tests, the regression, the trends and the dose–responses: a table each, with an empty line before it.
pub fn plain_tests(summary: &Summary) -> String {
    let mut text = String::new();
    summary.families.iter().for_each(|tests| family(&mut text, tests));
    if let Some(regression) = &summary.regression {
        let (condition, format) = (printable(&regression.reference_condition), &regression.reference_format);
        let _ = writeln!(text, "\nlogistic regression on condition × format, against {condition}, {format}");
        text += &coefficients(&regression.model);
    }
    trends(&mut text, summary);
    summary.doses.iter().for_each(|response| dose_response(&mut text, response));
    text
}

fn family(text: &mut String, family: &FamilyResult) {
    let _ = writeln!(text, "\n{} (correction: {})", printable(&family.name), family.correction.name());
    let heads = [
        "test",
        "first",
        "second",
        "points",
        "bootstrap",
        "z",
        "p",
        "corrected",
        "clustered p",
        "corrected",
        "h",
        "power",
    ];
    let mut lines = vec![heads.map(String::from)];
    for test in &family.tests {
        let p = |p: Option<f64>| p.map_or("-".into(), p_value);
        let share = |share: Option<f64>| share.map_or("-".into(), percent);
        let ends =
            test.difference_bootstrap.map(|(low, high)| format!("{} to {}", points(low), points(high)));
        lines.push([
            printable(&inference::label(test)),
            share(test.rate_a.rate),
            share(test.rate_b.rate),
            test.difference.map_or("-".into(), points),
            ends.unwrap_or("-".into()),
            test.z.map_or("-".into(), |z| format!("{z:.2}")),
            p(test.p),
            p(test.p_corrected),
            p(test.p_clustered),
            p(test.p_clustered_corrected),
            test.cohens_h.map_or("-".into(), |h| format!("{h:.3}")),
            share(test.power),
        ]);
    }
    *text += &aligned(&lines.iter().map(|line| &line[..]).collect::<Vec<_>>(), 1);
}

fn trends(text: &mut String, summary: &Summary) {
    for trend in &summary.trends.conditions {
        let _ = write!(
            text,
            "\ntrend over log parameters in {}, {} models",
            printable(&trend.condition),
            trend.models
        );
        if let Some(test) = trend.cochran_armitage {
            let _ = write!(text, ": Cochran–Armitage z = {:.2}, p = {}", test.statistic, p_value(test.p));
        }
        text.push('\n');
        *text += &trend.logistic.as_ref().map_or(String::new(), coefficients);
    }
    if !summary.trends.conditions.is_empty() && !summary.trends.left_out.is_empty() {
        let names: Vec<String> = summary.trends.left_out.iter().map(|name| printable(name)).collect();
        let _ = writeln!(text, "left out of the trend, size not known: {}", names.join(", "));
    }
}

fn dose_response(text: &mut String, response: &DoseResponse) {
    let _ = write!(text, "\n{}", printable(&doses::title(response)));
    if let Some(test) = response.cochran_armitage {
        let _ = write!(text, ": Cochran–Armitage z = {:.2}, p = {}", test.statistic, p_value(test.p));
    }
    text.push('\n');
    let mut lines = vec![["condition", "dose", "kept", "of all", "misaligned", "of kept"].map(String::from)];
    for dose in &response.doses {
        let share = |share: Option<f64>| share.map_or("-".into(), percent);
        lines.push([
            printable(&dose.condition),
            dose.dose.to_string(),
            dose.kept_of_judged.k.to_string(),
            share(dose.kept_of_judged.rate),
            dose.misaligned_of_kept.k.to_string(),
            share(dose.misaligned_of_kept.rate),
        ]);
    }
    *text += &aligned(&lines.iter().map(|line| &line[..]).collect::<Vec<_>>(), 1);
}

fn coefficients(model: &FittedModel) -> String {
    let mut lines = vec![["term", "coefficient", "error", "statistic", "p", "odds ratio"].map(String::from)];
    for term in &model.terms {
        lines.push([
            printable(&term.name) + if term.separated { " †" } else { "" },
            format!("{:.3}", term.wald.coefficient),
            format!("{:.3}", term.wald.error),
            format!("{:.2}", term.wald.statistic),
            p_value(term.wald.p),
            format!("{:.3}", term.odds_ratio),
        ]);
    }
    aligned(&lines.iter().map(|line| &line[..]).collect::<Vec<_>>(), 1) + &inference::remark(model) + "\n"
}

/// Aligns cells in columns: the first `texts` to the left, the others to the right.
fn aligned(lines: &[&[String]], texts: usize) -> String {
    let columns = lines.first().map_or(0, |line| line.len());
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (i, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ =
                if i < texts { write!(text, "{cell:<width$}  ") } else { write!(text, "{cell:>width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Names come from files, so control characters are replaced.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { visible(c) }).collect()
}
