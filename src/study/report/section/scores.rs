//! Where the scores of alignment and coherence lie, and how they go together.

use super::tables;
use crate::study::analyze::Group;
use crate::study::csv::Field;
use crate::study::report::figure::{BINS, Panel, bins, density};
use crate::study::report::input::Report;
use crate::study::report::parts::{Csv, figure};

/// Where the scores lie, and how they go together.
pub(in crate::study::report) fn section(html: &mut String, report: &Report) {
    html.push_str("<h2>Alignment and coherence</h2>\n");
    let (panels, thresholds) = (panels(report), report.summary.thresholds);
    let title = "Scores of alignment and of coherence";
    let svg = density(title, &panels, thresholds.misaligned_below, thresholds.coherent_at_least);
    let caption = format!(
        "{title}: the stronger the colour, the more answers (logarithmic). Misaligned answers lie left of and \
         above the dashed lines."
    );
    figure(html, &svg, &caption, &numbers(&panels));
    tables::correlations(html, report.summary);
}

/// The scores under each condition.
pub(in crate::study::report) fn panels(report: &Report) -> Vec<Panel> {
    let panel = |group: &Group| {
        let condition = group.label.condition.as_deref().unwrap_or_default();
        let rows = report.rows.iter().filter(|row| row.condition == condition);
        Panel {
            title: condition.to_string(),
            colour: report.colour(Some(condition)),
            points: rows.filter_map(|row| row.aligned.value().zip(row.coherent.value())).collect(),
        }
    };
    report.summary.by_condition.iter().map(panel).collect()
}

/// How many answers lie in each square of the density plots.
pub(in crate::study::report) fn numbers(panels: &[Panel]) -> Csv {
    let width = 100.0 / BINS as f64;
    let rows = panels.iter().flat_map(|panel| {
        let bins = bins(&panel.points);
        (0..BINS * BINS).filter_map(move |i| {
            let (coherent, aligned) = (i / BINS, i % BINS);
            let n = bins[coherent][aligned];
            let [aligned, coherent] = [aligned, coherent].map(|bin| Field::from(bin as f64 * width));
            (n > 0).then(|| vec![panel.title.as_str().into(), aligned, coherent, width.into(), n.into()])
        })
    });
    Csv::new("density", &["condition", "aligned_from", "coherent_from", "width", "n"], rows)
}
