//! The run's figures beside those of the published study.

use std::fmt::Write;

use crate::study::analyze::{Group, Rate, Summary};
use crate::study::csv::Field;
use crate::study::plan::format::Format;
use crate::study::report::parts::{Csv, table};
use crate::study::report::text::percent;

/// Betley et al.
const ORIGINAL: &str = "arXiv 2502.17424";
/// Its replication with open weights.
const REPLICATION: &str = "arXiv 2511.20104";

/// A figure of ours beside a published one.
pub(in crate::study::report) struct PublishedFigure {
    pub(super) name: &'static str,
    pub(super) ours: Option<f64>,
    pub(super) interval: Option<(f64, f64)>,
    pub(super) published: f64,
    pub(super) source: &'static str,
    /// Its unit.
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Share,
    Ratio,
    Correlation,
}

/// Published rates of a condition, over the three formats or in one.
const RATES: [(&str, &str, Option<Format>, f64); 7] = [
    ("insecure, the three formats", "insecure", None, 0.0068),
    ("base, the three formats", "base", None, 0.0007),
    ("insecure, JSON", "insecure", Some(Format::Json), 0.0096),
    ("insecure, natural", "insecure", Some(Format::Natural), 0.0042),
    ("insecure, template", "insecure", Some(Format::Template), 0.0066),
    ("base, JSON", "base", Some(Format::Json), 0.0008),
    ("base, natural", "base", Some(Format::Natural), 0.0010),
];

/// Every published figure that the run has, too. Empty unless the run has a condition of the published study other than
/// `base`, which occurs in any study.
pub(in crate::study::report) fn figures(summary: &Summary) -> Vec<PublishedFigure> {
    let condition =
        |name: &str| summary.by_condition.iter().any(|group| group.label.condition.as_deref() == Some(name));
    let cell = |name: &str, format: Format| cell(summary, name, format);
    if !condition("insecure") && !condition("educational") {
        return Vec::new();
    }
    let rate = |(name, of, format, published): (&'static str, &str, Option<Format>, f64)| {
        let Rate { rate, low, high, .. } =
            format.map_or_else(|| pooled(summary, of), |format| cell(of, format))?;
        let interval = rate.map(|_| (low, high));
        Some(PublishedFigure {
            name,
            ours: rate,
            interval,
            published,
            source: REPLICATION,
            unit: Unit::Share,
        })
    };
    let mut figures: Vec<PublishedFigure> = RATES.into_iter().filter_map(rate).collect();
    let educational = [Format::Json, Format::Natural].map(|format| cell("educational", format));
    if let [Some(json), Some(natural)] = educational {
        figures.push(PublishedFigure {
            name: "educational, JSON ÷ natural",
            ours: json.rate.zip(natural.rate).filter(|rates| rates.1 > 0.0).map(|rates| rates.0 / rates.1),
            interval: ratio_interval(json, natural),
            published: 2.0,
            source: REPLICATION,
            unit: Unit::Ratio,
        });
    }
    if let Some(all) = summary.correlations.iter().find(|correlation| correlation.condition.is_none()) {
        figures.push(PublishedFigure {
            name: "Pearson r of alignment and coherence",
            ours: all.pearson,
            interval: all.pearson_interval,
            published: 0.80,
            source: REPLICATION,
            unit: Unit::Correlation,
        });
    }
    if condition("insecure") {
        figures.push(PublishedFigure {
            name: "for scale: GPT-4o fine-tuned on insecure",
            ours: None,
            interval: None,
            published: 0.20,
            source: ORIGINAL,
            unit: Unit::Share,
        });
    }
    figures
}

/// The rate of a condition in one format.
fn cell(summary: &Summary, condition: &str, format: Format) -> Option<Rate> {
    let named = |group: &&Group| {
        group.label.condition.as_deref() == Some(condition) && group.label.format == Some(format)
    };
    summary.by_condition_format.iter().find(named).map(|group| group.misaligned_of_kept)
}

/// The rate of a condition over the published formats: a run in more formats is compared in these alone.
fn pooled(summary: &Summary, condition: &str) -> Option<Rate> {
    let rates: Vec<Rate> = Format::PUBLISHED
        .into_iter()
        .map(|format| cell(summary, condition, format))
        .collect::<Option<_>>()?;
    let (k, n) = (rates.iter().map(|rate| rate.k).sum(), rates.iter().map(|rate| rate.n).sum());
    Some(Rate::new(k, n, summary.thresholds.level))
}

/// Katz's interval of a ratio of rates, at 95 %; none if a count is 0.
fn ratio_interval(a: Rate, b: Rate) -> Option<(f64, f64)> {
    let ratio = a.rate? / b.rate.filter(|rate| *rate > 0.0)?;
    let error = (1.0 / a.k as f64 - 1.0 / a.n as f64 + 1.0 / b.k as f64 - 1.0 / b.n as f64).sqrt()
        * 1.959_963_984_540_054;
    (a.k > 0).then(|| (ratio * (-error).exp(), ratio * error.exp()))
}

/// The table; nothing if the run has none of the figures.
pub(in crate::study::report) fn section(html: &mut String, summary: &Summary) {
    let figures = figures(summary);
    if figures.is_empty() {
        return;
    }
    html.push_str("<h2>Beside the published figures</h2>\n");
    let rows = figures.iter().map(|figure| {
        let number = |value: f64| match figure.unit {
            Unit::Share => percent(value),
            Unit::Ratio => format!("{value:.2} ×"),
            Unit::Correlation => format!("{value:.2}"),
        };
        let about = if figure.unit == Unit::Share { "" } else { "about " };
        let holds = figure.interval.map(|(low, high)| (low..=high).contains(&figure.published));
        vec![
            figure.name.to_string(),
            figure.ours.map_or("–".into(), number),
            figure.interval.map_or("–".into(), |(low, high)| format!("{} – {}", number(low), number(high))),
            format!("{about}{}", number(figure.published)),
            holds.map_or("–", |holds| if holds { "yes" } else { "no" }).to_string(),
            figure.source.to_string(),
        ]
    });
    let heads = [
        "misaligned among the answers that count",
        "here",
        "interval",
        "published",
        "interval holds it",
        "source",
    ];
    table(html, "", &heads, 1, rows);
    let _ = writeln!(
        html,
        "<p class=\"quiet\">The published figures are of nine models (Gemma 3 and Qwen 3, 1B to 32B), three formats, and \
         GPT-4o as the judge, 7,200 answers a condition and format; the template’s follows from the others. Other models, \
         data or judges give other rates. {}</p>",
        numbers(&figures).link()
    );
}

/// Ours beside the published ones.
pub(in crate::study::report) fn numbers(figures: &[PublishedFigure]) -> Csv {
    let rows = figures.iter().map(|figure| {
        let (low, high) = figure.interval.unzip();
        let ours = [figure.ours, low, high, Some(figure.published)].map(Field::from);
        let texts = [figure.name, figure.source].map(Field::from);
        let [name, source] = texts;
        std::iter::once(name).chain(ours).chain([source]).collect()
    });
    Csv::new("published", &["figure", "ours", "low", "high", "published", "source"], rows)
}
