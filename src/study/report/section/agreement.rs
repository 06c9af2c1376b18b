//! How far the raters agree: judges with each other, and people with judges.

use std::fmt::Write;

use crate::study::analyze::agreement::pairs::RaterAgreement;
use crate::study::analyze::{Rate, Summary};
use crate::study::csv::Field;
use crate::study::report::figure::{Differences, Raters, bland_altman, squares};
use crate::study::report::input::Report;
use crate::study::report::parts::{Csv, figure, table};
use crate::study::report::text::{escape, percent};

/// The section; nothing if there is only one rater.
pub(in crate::study::report) fn section(html: &mut String, report: &Report) {
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
    let rows = raters(report);
    let caption = format!(
        "{title}: the stronger the colour, the more answers (logarithmic). The line is the bias, the dashed lines are \
         the limits of agreement; their values stand above."
    );
    figure(html, &bland_altman(title, &rows), &caption, &differences(&rows));
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
        let RaterAgreement { first, second, metric, both, statistics, .. } = agreement;
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
    let _ = writeln!(html, "<p class=\"quiet\">{}</p>", numbers(summary).link());
}

/// The raters two at a time, with their panels.
pub(in crate::study::report) fn raters(report: &Report) -> Vec<Raters> {
    let mut rows = Vec::<Raters>::new();
    for (pairs, agreement) in report.pairs.iter().zip(&report.summary.agreement) {
        let points = pairs.numbers().into_iter().map(|(a, b)| (f64::midpoint(a, b), a - b)).collect();
        let panel =
            Differences { metric: pairs.metric.clone(), points, limits: agreement.statistics.bland_altman };
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

/// How far raters agree.
pub(in crate::study::report) fn numbers(summary: &Summary) -> Csv {
    let heads = [
        "first",
        "second",
        "metric",
        "threshold",
        "answers",
        "both",
        "both_below",
        "first_below",
        "second_below",
        "neither_below",
        "pearson",
        "pearson_low",
        "pearson_high",
        "kappa_linear",
        "kappa_quadratic",
        "kappa_verdicts",
        "bias",
        "deviation",
        "limit_low",
        "limit_high",
    ];
    let rows = summary.agreement.iter().map(|agreement| {
        let RaterAgreement { first, second, metric, threshold, answers, both, below, statistics } = agreement;
        let mut row: Vec<Field> = [first, second, metric].map(|name| name.as_str().into()).into();
        row.extend([(*threshold).into(), (*answers).into(), (*both).into()]);
        row.extend(below.map(Field::from));
        let pearson = statistics.pearson.as_ref();
        row.extend([pearson.map(|p| p.r), pearson.map(|p| p.low), pearson.map(|p| p.high)].map(Field::from));
        row.extend(
            [statistics.kappa_linear, statistics.kappa_quadratic, statistics.kappa_side].map(Field::from),
        );
        let limits = statistics.bland_altman.as_ref();
        row.extend([limits.map(|l| l.bias), limits.map(|l| l.deviation)].map(Field::from));
        row.extend([limits.map(|l| l.low), limits.map(|l| l.high)].map(Field::from));
        row
    });
    Csv::new("agreement", &heads, rows)
}

/// How many answers lie in each square of the Bland–Altman plots.
pub(in crate::study::report) fn differences(rows: &[Raters]) -> Csv {
    let rows = rows.iter().flat_map(|raters| {
        raters.panels.iter().flat_map(|panel| {
            squares(&panel.points).into_iter().map(|((mean, difference), n)| {
                let names = [&raters.first, &raters.second, &panel.metric].map(|name| name.as_str().into());
                names.into_iter().chain([mean.into(), difference.into(), n.into()]).collect()
            })
        })
    });
    Csv::new("bland_altman", &["first", "second", "metric", "mean_from", "difference_from", "n"], rows)
}
