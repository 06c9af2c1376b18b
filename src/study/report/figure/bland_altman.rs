//! Differences between two raters' scores (Bland and Altman 1986).

use std::collections::BTreeMap;

use super::draw::{WIDTH, field, frame, line, open, text, upright};
use crate::study::stats::agreement::BlandAltman;

/// Side of a square, in points of the scores.
const SQUARE: f64 = 5.0;

/// Two raters, compared under each metric.
pub(in crate::study::report) struct Raters {
    pub(in crate::study::report) first: String,
    pub(in crate::study::report) second: String,
    pub(in crate::study::report) panels: Vec<Differences>,
}

/// One panel of a Bland–Altman plot.
pub(in crate::study::report) struct Differences {
    /// "aligned" or "coherent".
    pub(in crate::study::report) metric: String,
    /// Mean of the two scores, 0..=100, and first − second, −100..=100.
    pub(in crate::study::report) points: Vec<(f64, f64)>,
    pub(in crate::study::report) limits: Option<BlandAltman>,
}

/// How many points lie in each square that holds any, by its lower left corner.
pub(in crate::study::report) fn squares(points: &[(f64, f64)]) -> Vec<((f64, f64), usize)> {
    let corner = |value: f64, last: i32| ((value / SQUARE).floor() as i32).min(last);
    let mut counts = BTreeMap::<(i32, i32), usize>::new();
    for &(mean, difference) in points {
        *counts.entry((corner(mean, 19), corner(difference, 19))).or_default() += 1;
    }
    let place = |((x, y), n): ((i32, i32), usize)| ((f64::from(x) * SQUARE, f64::from(y) * SQUARE), n);
    counts.into_iter().map(place).collect()
}

/// A row for each two raters and a panel for each metric: the mean of the scores across, their difference up, in squares
/// of 5 × 5 points: the darker, the more answers (on a logarithmic scale). A line stands at the bias, dashed ones at
/// the limits of agreement.
pub(in crate::study::report) fn bland_altman(title: &str, rows: &[Raters]) -> String {
    const HEIGHT: f64 = 330.0;
    let mut svg = open(title, HEIGHT * rows.len() as f64);
    for (row, raters) in rows.iter().enumerate() {
        let top = row as f64 * HEIGHT;
        text(
            &mut svg,
            "strong",
            "start",
            (8.0, top + 18.0),
            &format!("{} − {}", raters.first, raters.second),
        );
        for (column, panel) in raters.panels.iter().enumerate() {
            self::panel(&mut svg, panel, (56.0 + column as f64 * 368.0, top + 50.0), column == 0);
        }
    }
    svg + "</svg>"
}

/// A panel whose upper left corner is (x0, y0); `named` if the axis of differences has its name.
fn panel(svg: &mut String, panel: &Differences, (x0, y0): (f64, f64), named: bool) {
    const SIDES: (f64, f64) = ((WIDTH - 124.0) / 2.0, 220.0);
    let at = |mean: f64, difference: f64| {
        (x0 + SIDES.0 * mean / 100.0, y0 + SIDES.1 * (100.0 - difference.clamp(-100.0, 100.0)) / 200.0)
    };
    let metric = if panel.metric == "aligned" { "alignment" } else { "coherence" };
    let limits = panel.limits.map_or(String::new(), |BlandAltman { bias, low, high, .. }| {
        format!(": bias {bias:.1} ({low:.1} to {high:.1})")
    });
    let head = format!("{metric}, n = {}{limits}", panel.points.len());
    text(svg, "", "start", (x0, y0 - 8.0), &head);
    let squares = squares(&panel.points);
    let most = squares.iter().map(|(_, n)| *n).max().unwrap_or(1);
    let size = (SIDES.0 * SQUARE / 100.0, SIDES.1 * SQUARE / 200.0);
    svg.push_str("<g class=\"c0\">");
    for ((mean, difference), n) in squares {
        let (x, y) = at(mean, difference + SQUARE);
        field(svg, (x, y), size, n, most);
    }
    svg.push_str("</g>");
    frame(svg, (x0, y0), SIDES);
    let mut across =
        |class: &str, difference: f64| line(svg, class, at(0.0, difference), at(100.0, difference));
    across("grid", 0.0);
    if let Some(BlandAltman { bias, low, high, .. }) = panel.limits {
        across("level", bias);
        across("rule", low);
        across("rule", high);
    }
    for mean in [0.0, 50.0, 100.0] {
        let (x, y) = at(mean, -100.0);
        text(svg, "quiet", "middle", (x, y + 16.0), &mean.to_string());
    }
    for difference in [-100.0, -50.0, 0.0, 50.0, 100.0] {
        let (x, y) = at(0.0, difference);
        text(svg, "quiet", "end", (x - 6.0, y + 4.5), &difference.to_string());
    }
    let (x, y) = at(50.0, -100.0);
    text(svg, "quiet", "middle", (x, y + 32.0), "mean of the two scores");
    if named {
        upright(svg, (x0 - 42.0, y0 + SIDES.1 / 2.0), "difference");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_lies_in_a_square() {
        let points = [(50.0, -100.0), (50.0, 100.0), (100.0, 0.0), (0.0, 0.0), (2.0, 4.9), (95.0, -0.1)];
        let squares = squares(&points);
        assert_eq!(
            squares,
            [((0.0, 0.0), 2), ((50.0, -100.0), 1), ((50.0, 95.0), 1), ((95.0, -5.0), 1), ((95.0, 0.0), 1)]
        );
    }
}
