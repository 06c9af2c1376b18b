//! SVG primitives. Colours come from the page's style sheet, so that one figure serves both the light and the dark theme.
//!
//! By hand on purpose: figures are a few lines, rectangles and texts, and a plotting library would bring fonts and themes
//! of its own.

use std::fmt::Write;

use crate::study::analyze::Rate;
use crate::study::report::text::{escape, percent};

/// Width of every figure, in its own units.
pub(super) const WIDTH: f64 = 760.0;

/// Step and end of an axis from 0 that includes `highest`, with round steps, about `most` of them, and an end of at most 1.
pub(super) fn axis(highest: f64, most: f64) -> (f64, f64) {
    let magnitude = 10_f64.powf((highest / most).log10().floor());
    let candidates = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * magnitude);
    let step = candidates.into_iter().find(|step| highest / step <= most).unwrap_or(magnitude * 10.0);
    let end = ((highest / step - 1e-9).ceil() * step).min(1.0);
    (step, end)
}

pub(super) fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">")
}

pub(super) fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ =
        write!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

pub(super) fn text(svg: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), content: &str) {
    let content = escape(content);
    let _ = write!(
        svg,
        "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>"
    );
}

/// The frame of a panel whose upper left corner is (x, y).
pub(super) fn frame(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64)) {
    let _ = write!(
        svg,
        "<rect class=\"frame\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
    );
}

/// A square with its upper left corner at (x, y), for `n` answers of at most `most`; its shade is logarithmic in `n`.
pub(super) fn field(
    svg: &mut String,
    (x, y): (f64, f64),
    (width, height): (f64, f64),
    n: usize,
    most: usize,
) {
    let shade = 0.18 + 0.82 * (n as f64).ln_1p() / (most as f64).ln_1p();
    let _ = write!(
        svg,
        "<rect class=\"mark\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         opacity=\"{shade:.2}\"><title>{n}</title></rect>"
    );
}

/// The name of a vertical axis, centred on (x, y).
pub(super) fn upright(svg: &mut String, (x, y): (f64, f64), name: &str) {
    let _ = write!(
        svg,
        "<text class=\"quiet\" text-anchor=\"middle\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\">{name}</text>"
    );
}

/// The tooltip of an estimate.
pub(super) fn tip(svg: &mut String, name: &str, rate: Rate) {
    let Rate { k, n, low, high, .. } = rate;
    let share = rate.rate.map_or("–".into(), percent);
    let content = format!("{name}: {share} ({k} of {n}), interval {} to {}", percent(low), percent(high));
    let _ = write!(svg, "<title>{}</title>", escape(&content));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_hold_the_highest() {
        for (highest, step, end) in
            [(0.0123, 0.0025, 0.0125), (0.31, 0.1, 0.4), (1.0, 0.2, 1.0), (0.97, 0.2, 1.0)]
        {
            let (s, e) = axis(highest, 6.0);
            assert!((s - step).abs() < 1e-12 && (e - end).abs() < 1e-12, "{highest}: {s} {e}");
        }
    }
}
