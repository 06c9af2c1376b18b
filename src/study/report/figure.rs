//! SVG figures, as text that stands inside the report: colours come from the page's style sheet, so that one figure
//! serves the light and the dark theme.

use std::fmt::Write;

use super::text::{escape, percent};
use crate::study::analyze::Rate;

/// Width of every figure, in its own units.
const WIDTH: f64 = 760.0;

/// A line of a forest plot.
pub(super) struct Estimate {
    /// What stands left of it.
    pub(super) label: String,
    /// Number of its colour.
    pub(super) colour: usize,
    /// A wider gap above it.
    pub(super) opens_block: bool,
    pub(super) rate: Rate,
}

/// Rates with their intervals, one a line, on a common axis in per cent.
pub(super) fn forest(title: &str, estimates: &[Estimate]) -> String {
    const ROW: f64 = 24.0;
    const TOP: f64 = 8.0;
    let longest = estimates.iter().map(|e| e.label.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * 7.2 + 14.0).clamp(90.0, 300.0);
    let right = WIDTH - 172.0;
    let highest = estimates.iter().filter(|e| e.rate.n > 0).map(|e| e.rate.high).fold(0.0, f64::max);
    let (step, end) = axis(highest.max(0.001));
    let x = |rate: f64| left + (right - left) * rate / end;
    let gaps = estimates.iter().skip(1).filter(|e| e.opens_block).count() as f64 * 10.0;
    let bottom = TOP + estimates.len() as f64 * ROW + gaps;
    let mut svg = open(title, bottom + 26.0);
    for i in 0..=(end / step).round() as usize {
        let at = x(i as f64 * step);
        line(&mut svg, "grid", (at, TOP), (at, bottom));
        text(&mut svg, "quiet", "middle", (at, bottom + 18.0), &percent(i as f64 * step));
    }
    let mut y = TOP + ROW / 2.0;
    for (i, estimate) in estimates.iter().enumerate() {
        if i > 0 && estimate.opens_block {
            y += 10.0;
        }
        let Rate { k, n, rate, low, high } = estimate.rate;
        text(&mut svg, "", "end", (left - 12.0, y + 4.5), &estimate.label);
        let colour = format!("c{}", estimate.colour % 6);
        if let Some(rate) = rate {
            let _ = write!(svg, "<g class=\"{colour}\">");
            line(&mut svg, "bar", (x(low), y), (x(high), y));
            let _ = write!(svg, "<circle class=\"mark\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"5\"/></g>", x(rate));
            let numbers = format!("{}  ({k} of {n})", percent(rate));
            text(&mut svg, "quiet", "start", (right + 14.0, y + 4.5), &numbers);
        } else {
            text(&mut svg, "quiet", "start", (right + 14.0, y + 4.5), "no answer counts");
        }
        y += ROW;
    }
    svg + "</svg>"
}

/// One panel of a density plot.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) colour: usize,
    /// (aligned, coherent), both 0..=100.
    pub(super) points: Vec<(f64, f64)>,
}

/// Alignment across, coherence up, in squares of 5 × 5 points: the darker, the more answers (on a logarithmic scale).
/// Dashed lines stand at the thresholds.
pub(super) fn density(
    title: &str,
    panels: &[Panel],
    misaligned_below: f64,
    coherent_at_least: f64,
) -> String {
    const BINS: usize = 20;
    const GAP: f64 = 30.0;
    let columns = panels.len().clamp(1, 3);
    let side = ((WIDTH - 60.0 - GAP * (columns as f64 - 1.0)) / columns as f64).min(230.0);
    let height = side + 62.0;
    let rows = panels.len().div_ceil(columns);
    let mut svg = open(title, height * rows as f64);
    for (i, panel) in panels.iter().enumerate() {
        let (x0, y0) = (40.0 + (i % columns) as f64 * (side + GAP), (i / columns) as f64 * height + 24.0);
        text(&mut svg, "", "start", (x0, y0 - 8.0), &format!("{} (n = {})", panel.title, panel.points.len()));
        let mut bins = [[0_usize; BINS]; BINS];
        let bin = |score: f64| ((score / 100.0 * BINS as f64) as usize).min(BINS - 1);
        for &(aligned, coherent) in &panel.points {
            bins[bin(coherent)][bin(aligned)] += 1;
        }
        let most = bins.iter().flatten().copied().max().unwrap_or(0).max(1);
        let cell = side / BINS as f64;
        let _ = write!(svg, "<g class=\"c{}\">", panel.colour % 6);
        for (row, counts) in bins.iter().enumerate() {
            for (column, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let shade = 0.18 + 0.82 * (count as f64).ln_1p() / (most as f64).ln_1p();
                let (x, y) = (x0 + column as f64 * cell, y0 + side - (row + 1) as f64 * cell);
                let _ = write!(
                    svg,
                    "<rect class=\"mark\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{cell:.1}\" height=\"{cell:.1}\" \
                     opacity=\"{shade:.2}\"><title>{count}</title></rect>"
                );
            }
        }
        svg.push_str("</g>");
        let _ = write!(
            svg,
            "<rect class=\"frame\" x=\"{x0:.1}\" y=\"{y0:.1}\" width=\"{side:.1}\" height=\"{side:.1}\"/>"
        );
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
            let (x, y) = (x0 - 28.0, y0 + side / 2.0);
            let _ = write!(
                svg,
                "<text class=\"quiet\" text-anchor=\"middle\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\">coherence</text>"
            );
        }
    }
    svg + "</svg>"
}

/// Step and end of an axis from 0 that holds `highest`: 4 to 8 round steps, and never beyond 1.
fn axis(highest: f64) -> (f64, f64) {
    let magnitude = 10_f64.powf((highest / 4.0).log10().floor());
    let candidates = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * magnitude);
    let step = candidates.into_iter().find(|step| highest / step <= 6.0).unwrap_or(magnitude * 10.0);
    let end = ((highest / step - 1e-9).ceil() * step).min(1.0);
    (step, end)
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">")
}

fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ =
        write!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn text(svg: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), content: &str) {
    let content = escape(content);
    let _ = write!(
        svg,
        "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_hold_the_highest() {
        for (highest, step, end) in
            [(0.0123, 0.0025, 0.0125), (0.31, 0.1, 0.4), (1.0, 0.2, 1.0), (0.97, 0.2, 1.0)]
        {
            let (s, e) = axis(highest);
            assert!((s - step).abs() < 1e-12 && (e - end).abs() < 1e-12, "{highest}: {s} {e}");
        }
    }
}
