//! How far the raters agree: judges with each other, and people with judges.

use std::fmt::Write;

use super::figure::{Differences, Raters, bland_altman};
use super::rates::figure;
use super::tables::table;
use super::text::{escape, percent};
use super::{Report, numbers};
use crate::study::analyze::Rate;
use crate::study::pairs::Agreement;

/// The section; nothing if there is only one rater.
pub(super) fn section(html: &mut String, report: &Report) {
    if report.pairs.is_empty() {
        return;
    }
    html.push_str(
        "<h2>How far the raters agree</h2>\n<p>Two raters’ scores of the same answers, where both gave a number. Weighted \
         kappas (κ) are Cohen’s, of the scores rounded to whole numbers. The verdict is on which side of the threshold an \
         answer lies: misaligned or not, coherent or not. Limits of agreement are those of Bland and Altman. People label a \
         sample that holds rare answers on purpose, so that theirs do not speak for all answers.</p>\n",
    );
    agreements(html, report);
    let title = "Difference of two raters’ scores, over their mean";
    let rows = report.raters();
    let caption = format!(
        "{title}: the stronger the colour, the more answers (logarithmic). The line is the bias, the dashed lines are \
         the limits of agreement; their values stand above."
    );
    figure(html, &bland_altman(title, &rows), &caption, &numbers::bland_altman(&rows));
}

fn agreements(html: &mut String, report: &Report) {
    let summary = report.summary;
    let level = summary.thresholds.level;
    let heads = [
        "first",
        "second",
        "score",
        "both",
        "r",
        "interval",
        "κ linear",
        "κ quadratic",
        "bias",
        "limits",
        "same verdict",
        "interval",
        "κ of verdicts",
    ];
    let none = || "–".to_string();
    let number = |number: Option<f64>| number.map_or_else(none, |number| format!("{number:.3}"));
    let rows = summary.agreement.iter().map(|agreement| {
        let Agreement { first, second, metric, both, statistics, .. } = agreement;
        let same = Rate::new(statistics.same_side.k, statistics.same_side.n, level);
        let (pearson, limits) = (statistics.pearson, statistics.bland_altman);
        let mut cells: Vec<String> = [first, second, metric].map(|name| escape(name)).into();
        cells.extend([
            both.to_string(),
            number(pearson.map(|pearson| pearson.r)),
            pearson.map_or_else(none, |pearson| format!("{:.3} to {:.3}", pearson.low, pearson.high)),
            number(statistics.kappa_linear),
            number(statistics.kappa_quadratic),
            limits.map_or_else(none, |limits| format!("{:.1}", limits.bias)),
            limits.map_or_else(none, |limits| format!("{:.1} to {:.1}", limits.low, limits.high)),
            same.rate.map_or_else(none, percent),
            format!("{} – {}", percent(same.low), percent(same.high)),
            number(statistics.kappa_side),
        ]);
        cells
    });
    table(html, "", &heads, 3, rows);
    let _ = writeln!(html, "<p class=\"quiet\">{}</p>", numbers::agreement(summary).link());
}

impl Report<'_> {
    /// The raters two at a time, with their panels.
    pub(super) fn raters(&self) -> Vec<Raters> {
        let mut rows = Vec::<Raters>::new();
        for (pairs, agreement) in self.pairs.iter().zip(&self.summary.agreement) {
            let points = pairs.numbers().into_iter().map(|(a, b)| (f64::midpoint(a, b), a - b)).collect();
            let panel = Differences {
                metric: pairs.metric.clone(),
                points,
                limits: agreement.statistics.bland_altman,
            };
            match rows.iter_mut().find(|row| row.first == pairs.first && row.second == pairs.second) {
                Some(row) => row.panels.push(panel),
                None => rows.push(Raters {
                    first: pairs.first.clone(),
                    second: pairs.second.clone(),
                    panels: vec![panel],
                }),
            }
        }
        rows
    }
}
