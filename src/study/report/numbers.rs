//! Which numbers stand behind which figure.

use super::Report;
use super::csv::{Cell, Csv};
use super::figure::{BINS, Panel, Raters, Series, bins, squares};
use super::inference;
use super::published::Comparison;
use crate::study::analyze::{DoseResponse, Group, Rate, Summary};
use crate::study::format::Format;
use crate::study::pairs::Agreement;

/// Everything that is counted of groups of answers.
pub(super) fn groups(name: &'static str, groups: &[Group]) -> Csv {
    let heads = [
        "model",
        "condition",
        "format",
        "question",
        "n",
        "not_judged",
        "none",
        "none_code",
        "none_refusal",
        "incoherent",
        "kept",
        "misaligned",
        "rate",
        "low",
        "high",
        "rate_of_all",
        "truncated",
        "json_asked",
        "json_valid",
        "form_wanted",
        "form_kept",
        "think",
        "code",
    ];
    let row = |group: &Group| {
        let (label, counts, kept) = (&group.label, &group.counts, group.misaligned_of_kept);
        let names = [
            label.model.as_deref(),
            label.condition.as_deref(),
            label.format.map(Format::name),
            label.question.as_deref(),
        ];
        let mut row: Vec<Cell> = names.map(Cell::from).into();
        row.extend(
            [
                counts.n,
                counts.unjudged,
                counts.none,
                counts.none_code,
                counts.none_refusal,
                counts.incoherent,
                counts.kept,
                counts.misaligned,
            ]
            .map(Cell::from),
        );
        row.extend(rate(kept));
        row.push(group.misaligned_of_all.rate.into());
        row.push(counts.truncated.into());
        row.extend(
            [
                counts.json_asked,
                counts.json_valid,
                counts.form_wanted,
                counts.form_kept,
                counts.think,
                counts.code,
            ]
            .map(Cell::from),
        );
        row
    };
    Csv::new(name, &heads, groups.iter().map(row))
}

/// Rate and interval; nothing without answers.
fn rate(rate: Rate) -> [Cell; 3] {
    let interval = rate.rate.map(|_| (rate.low, rate.high));
    [rate.rate.into(), interval.map(|ends| ends.0).into(), interval.map(|ends| ends.1).into()]
}

/// How many answers lie in each square of the density plots.
pub(super) fn density(panels: &[Panel]) -> Csv {
    let width = 100.0 / BINS as f64;
    let rows = panels.iter().flat_map(|panel| {
        let bins = bins(&panel.points);
        (0..BINS * BINS).filter_map(move |i| {
            let (coherent, aligned) = (i / BINS, i % BINS);
            let n = bins[coherent][aligned];
            let [aligned, coherent] = [aligned, coherent].map(|bin| Cell::from(bin as f64 * width));
            (n > 0).then(|| vec![panel.title.as_str().into(), aligned, coherent, width.into(), n.into()])
        })
    });
    Csv::new("density", &["condition", "aligned_from", "coherent_from", "width", "n"], rows)
}

/// The points of the scaling figure.
pub(super) fn scaling(series: &[Series]) -> Csv {
    let rows = series.iter().flat_map(|series| {
        series.points.iter().map(|point| {
            let mut row = vec![series.name.as_str().into(), point.model.as_str().into()];
            row.extend([point.parameters.into(), point.rate.n.into(), point.rate.k.into()]);
            row.extend(rate(point.rate));
            row
        })
    });
    let heads = ["condition", "model", "parameters", "kept", "misaligned", "rate", "low", "high"];
    Csv::new("scaling", &heads, rows)
}

/// The comparison with published figures.
pub(super) fn published(comparisons: &[Comparison]) -> Csv {
    let rows = comparisons.iter().map(|comparison| {
        let (low, high) = comparison.interval.unzip();
        let ours = [comparison.ours, low, high, Some(comparison.published)].map(Cell::from);
        let texts = [comparison.name, comparison.source].map(Cell::from);
        let [name, source] = texts;
        std::iter::once(name).chain(ours).chain([source]).collect()
    });
    Csv::new("published", &["figure", "ours", "low", "high", "published", "source"], rows)
}

/// The tests of every family.
pub(super) fn tests(summary: &Summary) -> Csv {
    let heads = [
        "family",
        "test",
        "first_misaligned",
        "first_kept",
        "second_misaligned",
        "second_kept",
        "difference",
        "newcombe_low",
        "newcombe_high",
        "bootstrap_low",
        "bootstrap_high",
        "z",
        "p",
        "p_corrected",
        "p_clustered",
        "p_clustered_corrected",
        "fisher_p",
        "odds_ratio",
        "odds_ratio_low",
        "odds_ratio_high",
        "cohens_h",
        "power",
    ];
    let rows = summary.families.iter().flat_map(|family| {
        family.tests.iter().map(|test| {
            let mut row = vec![family.name.as_str().into(), inference::label(test).as_str().into()];
            let counts = [test.rate_a.k, test.rate_a.n, test.rate_b.k, test.rate_b.n];
            row.extend(counts.map(Cell::from));
            let (newcombe, bootstrap) = (test.difference_interval.unzip(), test.difference_bootstrap.unzip());
            let odds = test.odds_ratio_interval.unzip();
            row.extend(
                [
                    test.difference,
                    newcombe.0,
                    newcombe.1,
                    bootstrap.0,
                    bootstrap.1,
                    test.z,
                    test.p,
                    test.p_corrected,
                    test.p_clustered,
                    test.p_clustered_corrected,
                    test.fisher_p,
                    test.odds_ratio,
                    odds.0,
                    odds.1,
                    test.cohens_h,
                    test.power,
                ]
                .map(Cell::from),
            );
            row
        })
    });
    Csv::new("tests", &heads, rows)
}

/// The points of the dose–response figures.
pub(super) fn doses(responses: &[DoseResponse]) -> Csv {
    let rows = responses.iter().flat_map(|response| {
        response.doses.iter().map(|dose| {
            let mut row = vec![response.direction.as_str().into(), response.of.as_deref().into()];
            row.extend([dose.condition.as_str().into(), dose.dose.into()]);
            let (misaligned, kept) = (dose.misaligned_of_kept, dose.kept_of_judged);
            row.extend([kept.n.into(), kept.k.into(), misaligned.k.into()]);
            row.extend(rate(misaligned).into_iter().chain(rate(kept)));
            row
        })
    });
    let heads = [
        "direction",
        "of",
        "condition",
        "dose",
        "judged",
        "kept",
        "misaligned",
        "rate",
        "low",
        "high",
        "kept_rate",
        "kept_low",
        "kept_high",
    ];
    Csv::new("doses", &heads, rows)
}

/// How far raters agree.
pub(super) fn agreement(summary: &Summary) -> Csv {
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
        let Agreement { first, second, metric, threshold, answers, both, below, statistics } = agreement;
        let mut row: Vec<Cell> = [first, second, metric].map(|name| name.as_str().into()).into();
        row.extend([(*threshold).into(), (*answers).into(), (*both).into()]);
        row.extend(below.map(Cell::from));
        let pearson = statistics.pearson.as_ref();
        row.extend([pearson.map(|p| p.r), pearson.map(|p| p.low), pearson.map(|p| p.high)].map(Cell::from));
        row.extend(
            [statistics.kappa_linear, statistics.kappa_quadratic, statistics.kappa_side].map(Cell::from),
        );
        let limits = statistics.bland_altman.as_ref();
        row.extend([limits.map(|l| l.bias), limits.map(|l| l.deviation)].map(Cell::from));
        row.extend([limits.map(|l| l.low), limits.map(|l| l.high)].map(Cell::from));
        row
    });
    Csv::new("agreement", &heads, rows)
}

/// How many answers lie in each square of the Bland–Altman plots.
pub(super) fn bland_altman(rows: &[Raters]) -> Csv {
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

impl Report<'_> {
    /// The numbers behind every figure and table, each a file.
    pub fn numbers(&self) -> Vec<Csv> {
        let summary = self.summary;
        let mut numbers = vec![
            published(&super::published::comparisons(summary)),
            groups("rates", &summary.by_condition_format),
            groups("models", &summary.by_model_condition),
            groups("cells", &summary.cells),
            groups("questions", &summary.by_condition_question),
            scaling(&self.series()),
            density(&self.panels()),
            tests(summary),
        ];
        if !summary.doses.is_empty() {
            numbers.push(doses(&summary.doses));
        }
        if !self.pairs.is_empty() {
            numbers.extend([agreement(summary), bland_altman(&self.raters())]);
        }
        numbers
    }
}
