//! Rates against the logarithm of the number of parameters.

use std::fmt::Write;

use super::draw::{WIDTH, axis, line, open, text, tip};
use crate::study::analyze::Rate;
use crate::study::report::text::percent;

/// A model under a condition.
pub(in crate::study::report) struct Point {
    pub(in crate::study::report) model: String,
    pub(in crate::study::report) parameters: f64,
    pub(in crate::study::report) rate: Rate,
}

/// A condition.
pub(in crate::study::report) struct Series {
    pub(in crate::study::report) name: String,
    /// Number of its colour.
    pub(in crate::study::report) colour: usize,
    pub(in crate::study::report) points: Vec<Point>,
    /// Intercept and slope of the log-odds over log₁₀ parameters, where a trend was fitted.
    pub(in crate::study::report) trend: Option<(f64, f64)>,
}

/// A point with its interval for each model, a dashed line for each fitted trend.
pub(in crate::study::report) fn scaling(title: &str, series: &[Series]) -> String {
    const LEFT: f64 = 62.0;
    const RIGHT: f64 = WIDTH - 24.0;
    const TOP: f64 = 34.0;
    const BOTTOM: f64 = 300.0;
    /// Offset between conditions, so that their intervals do not overlap.
    const ASIDE: f64 = 7.0;
    let points = || series.iter().flat_map(|series| &series.points).filter(|point| point.rate.n > 0);
    let sizes = || points().map(|point| point.parameters.log10());
    let margin = 0.12;
    let (low, high) =
        (sizes().fold(f64::INFINITY, f64::min) - margin, sizes().fold(f64::NEG_INFINITY, f64::max) + margin);
    let (step, end) = axis(points().map(|point| point.rate.high).fold(0.001, f64::max), 6.0);
    let x = |size: f64| LEFT + (RIGHT - LEFT) * (size - low) / (high - low);
    let y = |rate: f64| BOTTOM - (BOTTOM - TOP) * rate / end;
    let mut svg = open(title, BOTTOM + 44.0);
    for tick in 0..=(end / step).round() as usize {
        let rate = tick as f64 * step;
        line(&mut svg, "grid", (LEFT, y(rate)), (RIGHT, y(rate)));
        text(&mut svg, "quiet", "end", (LEFT - 8.0, y(rate) + 4.5), &percent(rate));
    }
    for (size, name) in round_sizes().filter(|(size, _)| (low..=high).contains(size)) {
        line(&mut svg, "grid", (x(size), TOP), (x(size), BOTTOM));
        text(&mut svg, "quiet", "middle", (x(size), BOTTOM + 18.0), &name);
    }
    let below = (f64::midpoint(LEFT, RIGHT), BOTTOM + 38.0);
    text(&mut svg, "quiet", "middle", below, "parameters (logarithmic)");
    let middle = (series.len() as f64 - 1.0) / 2.0;
    let mut legend = LEFT;
    for (i, series) in series.iter().enumerate() {
        let shift = ASIDE * (i as f64 - middle);
        let _ = write!(svg, "<g class=\"c{}\">", series.colour % 6);
        let _ = write!(svg, "<circle class=\"mark\" cx=\"{:.1}\" cy=\"12\" r=\"5\"/>", legend + 5.0);
        text(&mut svg, "", "start", (legend + 16.0, 16.5), &series.name);
        legend += series.name.chars().count() as f64 * 7.4 + 44.0;
        if let Some((intercept, slope)) = series.trend {
            let curve = (0..=60).map(|i| {
                let size = low + (high - low) * f64::from(i) / 60.0;
                let rate = 1.0 / (1.0 + (-intercept - slope * size).exp());
                format!("{:.1},{:.1}", x(size), y(rate.min(end)))
            });
            let curve = curve.collect::<Vec<_>>().join(" ");
            let _ = write!(svg, "<polyline class=\"trend\" points=\"{curve}\"/>");
        }
        for point in &series.points {
            let Some(rate) = point.rate.rate else { continue };
            let at = x(point.parameters.log10()) + shift;
            svg.push_str("<g>");
            tip(&mut svg, &format!("{} · {}", point.model, series.name), point.rate);
            line(&mut svg, "bar", (at, y(point.rate.low)), (at, y(point.rate.high)));
            let _ =
                write!(svg, "<circle class=\"mark\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4.5\"/></g>", y(rate));
        }
        svg.push_str("</g>");
    }
    svg + "</svg>"
}

/// Round numbers of parameters with their names, as logarithms.
fn round_sizes() -> impl Iterator<Item = (f64, String)> {
    (5..=12).flat_map(|power| {
        [1.0, 2.0, 5.0].map(|digit: f64| {
            let size = digit.log10() + f64::from(power);
            let number = 10_f64.powf(size);
            let name = match power {
                ..=5 => format!("{:.0}k", number / 1e3),
                6..=8 => format!("{:.0}M", number / 1e6),
                _ => format!("{:.0}B", number / 1e9),
            };
            (size, name)
        })
    })
}
