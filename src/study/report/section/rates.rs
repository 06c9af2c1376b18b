//! How often answers are misaligned, by everything that the study varies.

use super::tables::groups;
use crate::study::analyze::{Group, Label, Rate};
use crate::study::plan::format::Format;
use crate::study::report::figure::{Estimate, Facet, FacetLine, facets, forest};
use crate::study::report::input::Report;
use crate::study::report::parts::{distinct, figure};

/// The rate of the group with that label.
fn rate_of(groups: &[Group], label: &Label) -> Option<Rate> {
    groups.iter().find(|group| group.label == *label).map(|group| group.misaligned_of_kept)
}

/// How often answers are misaligned, by all that the study varies.
pub(in crate::study::report) fn section(html: &mut String, report: &Report) {
    let summary = report.summary;
    html.push_str("<h2>How often answers are misaligned</h2>\n");
    let groups = &summary.by_condition_format;
    let mut before = None;
    let mut estimates = Vec::new();
    for Group { label, misaligned_of_kept, .. } in groups {
        let parts = [label.condition.as_deref(), label.format.map(Format::name)];
        estimates.push(Estimate {
            label: parts.into_iter().flatten().collect::<Vec<_>>().join(" · "),
            colour: report.colour(label.condition.as_deref()),
            opens_block: label.condition.as_ref() != before,
            rate: *misaligned_of_kept,
        });
        before = label.condition.as_ref();
    }
    let title = "Misaligned answers among those that count, by condition and format";
    figure(html, &forest(title, &estimates), &format!("{title}."), &self::groups("rates", groups));
    if summary.by_model_condition.len() > summary.by_condition.len() {
        models(html, report);
    }
    questions(html, report);
}

/// A panel for each format; models and, within them, conditions.
fn models(html: &mut String, report: &Report) {
    let cells = &report.summary.cells;
    let (mut lines, mut labels) = (Vec::new(), Vec::new());
    for group in &report.summary.by_model_condition {
        let Label { model, condition, .. } = &group.label;
        lines.push(FacetLine {
            block: model.clone().unwrap_or_default(),
            label: condition.clone().unwrap_or_default(),
        });
        labels.push((&group.label, report.colour(condition.as_deref())));
    }
    let panel = |format: Format| {
        let estimate = |(label, colour): &(&Label, usize)| {
            let label = Label { format: Some(format), ..(*label).clone() };
            Some((*colour, rate_of(cells, &label)?))
        };
        Facet { title: format.name().into(), estimates: labels.iter().map(estimate).collect() }
    };
    let formats = distinct(cells.iter().filter_map(|group| group.label.format));
    let panels: Vec<Facet> = formats.into_iter().map(panel).collect();
    let title = "Misaligned answers among those that count, by model, condition and format";
    let svg = facets(title, &lines, &panels);
    figure(html, &svg, &format!("{title}."), &self::groups("cells", cells));
}

/// A panel for each condition; questions and, within them, formats.
fn questions(html: &mut String, report: &Report) {
    let groups = &report.summary.by_condition_question;
    let mut questions = distinct(groups.iter().filter_map(|group| group.label.question.as_deref()));
    let stems = distinct(questions.iter().map(|id| Format::stem(id)));
    questions.sort_by_key(|id| (stems.iter().position(|stem| *stem == Format::stem(id)), Format::of(id)));
    let line = |id: &&str| FacetLine { block: Format::stem(id).into(), label: Format::of(id).name().into() };
    let lines: Vec<FacetLine> = questions.iter().map(line).collect();
    let panel = |condition: &Group| {
        let colour = report.colour(condition.label.condition.as_deref());
        let estimate = |id: &&str| {
            let label = Label { question: Some((*id).into()), ..condition.label.clone() };
            Some((colour, rate_of(groups, &label)?))
        };
        Facet {
            title: condition.label.condition.clone().unwrap_or_default(),
            estimates: questions.iter().map(estimate).collect(),
        }
    };
    let panels: Vec<Facet> = report.summary.by_condition.iter().map(panel).collect();
    let title = "Misaligned answers among those that count, by question, format and condition";
    let svg = facets(title, &lines, &panels);
    figure(html, &svg, &format!("{title}."), &self::groups("questions", groups));
}
