//! The figures of rates and scores.

use std::fmt::Write;

use super::figure::{Estimate, Facet, Line, Panel, Point, Series, density, facets, forest, scaling};
use super::numbers;
use super::{Csv, Report, tables};
use crate::model::cards;
use crate::study::analyze::{Group, Label, Rate};
use crate::study::format::Format;

/// A figure with what it shows and a link to its numbers.
pub(super) fn figure(html: &mut String, svg: &str, caption: &str, numbers: &Csv) {
    let link = numbers.link();
    let _ = writeln!(
        html,
        "<figure><div class=\"scroll\">{svg}</div><figcaption>{caption} {link}</figcaption></figure>"
    );
}

/// What differs, in the order in which it first occurs.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// The rate of the group with that label.
fn rate_of(groups: &[Group], label: &Label) -> Option<Rate> {
    groups.iter().find(|group| group.label == *label).map(|group| group.misaligned_of_kept)
}

impl Report<'_> {
    /// How often answers are misaligned, by all that the study varies.
    pub(super) fn rates(&self, html: &mut String) {
        let summary = self.summary;
        html.push_str("<h2>How often answers are misaligned</h2>\n");
        let groups = &summary.by_condition_format;
        let mut before = None;
        let mut estimates = Vec::new();
        for Group { label, misaligned_of_kept, .. } in groups {
            let parts = [label.condition.as_deref(), label.format.map(Format::name)];
            estimates.push(Estimate {
                label: parts.into_iter().flatten().collect::<Vec<_>>().join(" · "),
                colour: self.colour(label.condition.as_deref()),
                opens_block: label.condition.as_ref() != before,
                rate: *misaligned_of_kept,
            });
            before = label.condition.as_ref();
        }
        let title = "Misaligned answers among those that count, by condition and format";
        figure(html, &forest(title, &estimates), &format!("{title}."), &numbers::groups("rates", groups));
        if summary.by_model_condition.len() > summary.by_condition.len() {
            self.models(html);
        }
        self.questions(html);
    }

    /// A panel for each format; models and, within them, conditions.
    fn models(&self, html: &mut String) {
        let cells = &self.summary.cells;
        let (mut lines, mut labels) = (Vec::new(), Vec::new());
        for group in &self.summary.by_model_condition {
            let Label { model, condition, .. } = &group.label;
            lines.push(Line {
                block: model.clone().unwrap_or_default(),
                label: condition.clone().unwrap_or_default(),
            });
            labels.push((&group.label, self.colour(condition.as_deref())));
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
        figure(html, &svg, &format!("{title}."), &numbers::groups("cells", cells));
    }

    /// A panel for each condition; questions and, within them, formats.
    fn questions(&self, html: &mut String) {
        let groups = &self.summary.by_condition_question;
        let mut questions = distinct(groups.iter().filter_map(|group| group.label.question.as_deref()));
        let stems = distinct(questions.iter().map(|id| Format::stem(id)));
        questions.sort_by_key(|id| (stems.iter().position(|stem| *stem == Format::stem(id)), Format::of(id)));
        let line = |id: &&str| Line { block: Format::stem(id).into(), label: Format::of(id).name().into() };
        let lines: Vec<Line> = questions.iter().map(line).collect();
        let panel = |condition: &Group| {
            let colour = self.colour(condition.label.condition.as_deref());
            let estimate = |id: &&str| {
                let label = Label { question: Some((*id).into()), ..condition.label.clone() };
                Some((colour, rate_of(groups, &label)?))
            };
            Facet {
                title: condition.label.condition.clone().unwrap_or_default(),
                estimates: questions.iter().map(estimate).collect(),
            }
        };
        let panels: Vec<Facet> = self.summary.by_condition.iter().map(panel).collect();
        let title = "Misaligned answers among those that count, by question, format and condition";
        let svg = facets(title, &lines, &panels);
        figure(html, &svg, &format!("{title}."), &numbers::groups("questions", groups));
    }

    /// The rates over the sizes of the models; nothing without two known sizes.
    pub(super) fn scaling(&self, html: &mut String) {
        let series = self.series();
        let sizes = distinct(series.iter().flat_map(|s| &s.points).map(|point| point.parameters));
        if sizes.len() < 2 {
            return;
        }
        html.push_str("<h2>Size of the model</h2>\n");
        let title = "Misaligned answers among those that count, by number of parameters";
        let trends = if series.iter().any(|series| series.trend.is_some()) {
            " Dashed: the logistic trend of each condition (its coefficients are under Comparisons)."
        } else {
            ""
        };
        let caption = format!("{title}; point at a mark for its model.{trends}");
        figure(html, &scaling(title, &series), &caption, &numbers::scaling(&series));
    }

    /// The models of known size under each condition.
    pub(super) fn series(&self) -> Vec<Series> {
        let series = |condition: &Group| {
            let name = condition.label.condition.clone().unwrap_or_default();
            let of = |group: &&Group| group.label.condition == condition.label.condition;
            let point = |group: &Group| {
                let model = group.label.model.clone()?;
                let parameters = cards::find(&model)?.parameters as f64;
                Some(Point { model, parameters, rate: group.misaligned_of_kept })
            };
            let fitted = self.summary.trends.conditions.iter().find(|trend| trend.condition == name);
            let terms = fitted.and_then(|trend| trend.logistic.as_ref()).map(|model| &model.terms[..]);
            Series {
                colour: self.colour(Some(&name)),
                points: self.summary.by_model_condition.iter().filter(of).filter_map(point).collect(),
                trend: match terms {
                    Some([intercept, slope]) => Some((intercept.wald.coefficient, slope.wald.coefficient)),
                    _ => None,
                },
                name,
            }
        };
        self.summary.by_condition.iter().map(series).collect()
    }

    /// Where the scores lie, and how they go together.
    pub(super) fn scores(&self, html: &mut String) {
        html.push_str("<h2>Alignment and coherence</h2>\n");
        let (panels, thresholds) = (self.panels(), self.summary.thresholds);
        let title = "Scores of alignment and of coherence";
        let svg = density(title, &panels, thresholds.misaligned_below, thresholds.coherent_at_least);
        let caption = format!(
            "{title}: the stronger the colour, the more answers (logarithmic). Misaligned answers lie left of and \
             above the dashed lines."
        );
        figure(html, &svg, &caption, &numbers::density(&panels));
        tables::correlations(html, self.summary);
    }

    /// The scores under each condition.
    pub(super) fn panels(&self) -> Vec<Panel> {
        let panel = |group: &Group| {
            let condition = group.label.condition.as_deref().unwrap_or_default();
            let rows = self.rows.iter().filter(|row| row.condition == condition);
            Panel {
                title: condition.to_string(),
                colour: self.colour(Some(condition)),
                points: rows.filter_map(|row| row.aligned.value().zip(row.coherent.value())).collect(),
            }
        };
        self.summary.by_condition.iter().map(panel).collect()
    }
}
