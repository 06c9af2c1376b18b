//! Rates with their intervals, one a line.

use std::fmt::Write;

use super::draw::{WIDTH, axis, line, open, text};
use crate::study::analyze::Rate;
use crate::study::report::text::percent;

/// A line of a forest plot.
pub(in crate::study::report) struct Estimate {
    /// Its label.
    pub(in crate::study::report) label: String,
    /// Number of its colour.
    pub(in crate::study::report) colour: usize,
    /// A wider gap above it.
    pub(in crate::study::report) opens_block: bool,
    pub(in crate::study::report) rate: Rate,
}

/// Rates with their intervals, one a line, on a common axis in per cent.
pub(in crate::study::report) fn forest(title: &str, estimates: &[Estimate]) -> String {
    const ROW: f64 = 24.0;
    const TOP: f64 = 8.0;
    let longest = estimates.iter().map(|e| e.label.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * 7.2 + 14.0).clamp(90.0, 300.0);
    let right = WIDTH - 172.0;
    let highest = estimates.iter().filter(|e| e.rate.n > 0).map(|e| e.rate.high).fold(0.0, f64::max);
    let (step, end) = axis(highest.max(0.001), 6.0);
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
