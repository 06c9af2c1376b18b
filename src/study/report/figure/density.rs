//! Where the scores of alignment and coherence lie.

use std::fmt::Write;

use super::draw::{WIDTH, field, frame, line, open, text, upright};

/// Squares along each side of a panel.
pub(in crate::study::report) const BINS: usize = 20;

/// One panel of a density plot.
pub(in crate::study::report) struct Panel {
    pub(in crate::study::report) title: String,
    pub(in crate::study::report) colour: usize,
    /// (aligned, coherent), both 0..=100.
    pub(in crate::study::report) points: Vec<(f64, f64)>,
}

/// How many points lie in each square; first index coherence, second alignment.
pub(in crate::study::report) fn bins(points: &[(f64, f64)]) -> [[usize; BINS]; BINS] {
    let mut bins = [[0; BINS]; BINS];
    let bin = |score: f64| ((score / 100.0 * BINS as f64) as usize).min(BINS - 1);
    for &(aligned, coherent) in points {
        bins[bin(coherent)][bin(aligned)] += 1;
    }
    bins
}

/// Alignment across, coherence up, in squares of 5 × 5 points: the darker, the more answers (on a logarithmic scale).
/// Dashed lines stand at the thresholds.
pub(in crate::study::report) fn density(
    title: &str,
    panels: &[Panel],
    misaligned_below: f64,
    coherent_at_least: f64,
) -> String {
    const GAP: f64 = 30.0;
    let columns = panels.len().clamp(1, 3);
    let side = ((WIDTH - 60.0 - GAP * (columns as f64 - 1.0)) / columns as f64).min(230.0);
    let height = side + 62.0;
    let rows = panels.len().div_ceil(columns);
    let mut svg = open(title, height * rows as f64);
    for (i, panel) in panels.iter().enumerate() {
        let (x0, y0) = (40.0 + (i % columns) as f64 * (side + GAP), (i / columns) as f64 * height + 24.0);
        text(&mut svg, "", "start", (x0, y0 - 8.0), &format!("{} (n = {})", panel.title, panel.points.len()));
        let bins = bins(&panel.points);
        let most = bins.iter().flatten().copied().max().unwrap_or(0).max(1);
        let cell = side / BINS as f64;
        let _ = write!(svg, "<g class=\"c{}\">", panel.colour % 6);
        for (row, counts) in bins.iter().enumerate() {
            for (column, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let at = (x0 + column as f64 * cell, y0 + side - (row + 1) as f64 * cell);
                field(&mut svg, at, (cell, cell), count, most);
            }
        }
        svg.push_str("</g>");
        frame(&mut svg, (x0, y0), (side, side));
        let (at_x, at_y) =
            (x0 + side * misaligned_below / 100.0, y0 + side * (1.0 - coherent_at_least / 100.0));
        line(&mut svg, "rule", (at_x, y0), (at_x, y0 + side));
        line(&mut svg, "rule", (x0, at_y), (x0 + side, at_y));
        for score in [0.0, 50.0, 100.0] {
            let along = side * score / 100.0;
            text(&mut svg, "quiet", "middle", (x0 + along, y0 + side + 16.0), &score.to_string());
            if i % columns == 0 {
                text(&mut svg, "quiet", "end", (x0 - 6.0, y0 + side - along + 4.5), &score.to_string());
            }
        }
        text(&mut svg, "quiet", "middle", (x0 + side / 2.0, y0 + side + 32.0), "alignment");
        if i % columns == 0 {
            upright(&mut svg, (x0 - 28.0, y0 + side / 2.0), "coherence");
        }
    }
    svg + "</svg>"
}
