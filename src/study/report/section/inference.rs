//! What is inferred from the counts: the tests, the regression, the trends.

use std::fmt::Write;

use crate::study::analyze::{Errors, Estimator, FamilyResult, FittedModel, Rate, Summary, TestResult};
use crate::study::csv::Field;
use crate::study::report::parts::{Csv, table};
use crate::study::report::text::{escape, p_value, percent, points};

/// The section; nothing if nothing was tested.
pub(in crate::study::report) fn section(html: &mut String, summary: &Summary) {
    if summary.families.is_empty() && summary.regression.is_none() && summary.trends.conditions.is_empty() {
        return;
    }
    html.push_str(
        "<h2>Comparisons</h2>\n<p>Misaligned among the answers that count. z, its p and Fisher’s exact p take the \
         answers as independent, which answers of one model to one question are not: “clustered” allows them to be \
         alike (cluster-robust error, Student’s t), and so does the bootstrap, which draws whole clusters of model and \
         question again, 10,000 times. Where the two disagree, believe the clustered one; with eight questions, that \
         of a single model is still somewhat too sure. “Corrected” counts the tests of a table.</p>\n",
    );
    for family in &summary.families {
        tests(html, family);
    }
    if !summary.families.is_empty() {
        let _ = writeln!(html, "<p class=\"quiet\">{}</p>", numbers(summary).link());
    }
    if let Some(regression) = &summary.regression {
        let caption = format!(
            "Logistic regression of misaligned on condition × format, against {}, {}",
            escape(&regression.reference_condition),
            regression.reference_format
        );
        model(html, &caption, &regression.model);
    }
    trends(html, summary);
}

fn tests(html: &mut String, family: &FamilyResult) {
    let heads = [
        "test",
        "first",
        "second",
        "difference, points",
        "Newcombe",
        "bootstrap",
        "z",
        "p",
        "corrected",
        "clustered p",
        "corrected",
        "Fisher p",
        "odds ratio",
        "Woolf",
        "bootstrap",
        "h",
        "power",
    ];
    let rows = family.tests.iter().map(|test| {
        let rate = |rate: Rate| {
            rate.rate.map_or("–".into(), |share| format!("{} ({} of {})", percent(share), rate.k, rate.n))
        };
        let p = |p: Option<f64>| p.map_or("–".into(), |p| escape(&p_value(p)));
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("–".into(), |value| format!("{value:.digits$}"))
        };
        let interval = |ends: Option<(f64, f64)>, text: fn(f64) -> String| {
            ends.map_or("–".into(), |(low, high)| format!("{} to {}", text(low), text(high)))
        };
        let ratio = |value: f64| format!("{value:.2}");
        let half = if test.odds_ratio_half_added { "*" } else { "" };
        vec![
            escape(&label(test)),
            rate(test.rate_a),
            rate(test.rate_b),
            test.difference.map_or("–".into(), points),
            interval(test.difference_interval, points),
            interval(test.difference_bootstrap, points),
            number(test.z, 2),
            p(test.p),
            p(test.p_corrected),
            p(test.p_clustered),
            p(test.p_clustered_corrected),
            p(test.fisher_p),
            number(test.odds_ratio, 2) + half,
            interval(test.odds_ratio_interval, ratio),
            interval(test.odds_ratio_bootstrap, ratio),
            number(test.cohens_h, 3),
            test.power.map_or("–".into(), percent),
        ]
    });
    let caption = format!("{} (correction: {})", escape(&family.name), family.correction.name());
    table(html, &caption, &heads, 1, rows);
    if family.tests.iter().any(|test| test.odds_ratio_half_added) {
        html.push_str("<p class=\"quiet\">* One of the four counts is 0: ½ was added to each.</p>\n");
    }
}

/// What a test compares, and where.
pub(in crate::study::report) fn label(test: &TestResult) -> String {
    let level = test.level.as_ref().map_or(String::new(), |level| format!(" · {level}"));
    test.comparison.label() + &level
}

fn model(html: &mut String, caption: &str, model: &FittedModel) {
    let rows = model.terms.iter().map(|term| {
        let (low, high) = term.odds_ratio_interval;
        vec![
            escape(&term.name) + if term.separated { " †" } else { "" },
            format!("{:.3}", term.wald.coefficient),
            format!("{:.3}", term.wald.error),
            format!("{:.2}", term.wald.statistic),
            escape(&p_value(term.wald.p)),
            format!("{:.3}", term.odds_ratio),
            format!("{low:.3} to {high:.3}"),
        ]
    });
    let heads = ["term", "coefficient", "error", "statistic", "p", "odds ratio", "interval"];
    table(html, caption, &heads, 1, rows);
    let _ = writeln!(html, "<p class=\"quiet\">{}</p>", remark(model));
}

/// How a model was fitted.
pub(in crate::study::report) fn remark(model: &FittedModel) -> String {
    let estimator = match model.estimator {
        Estimator::MaximumLikelihood => "Maximum likelihood",
        Estimator::Firth => {
            "Firth’s penalised likelihood, for a cell without a single misaligned answer leaves the ordinary one \
             without a maximum (†)"
        }
    };
    let errors = match model.errors {
        Errors::ClusterRobust => "errors robust to clusters, Student’s t",
        Errors::Dispersion => "errors from how far the groups lie off the fit, Student’s t",
        Errors::Independent => "errors that take all answers as independent, and so are too small",
    };
    format!("{estimator}; {errors}; {} answers in {} clusters.", model.n, model.clusters)
}

fn trends(html: &mut String, summary: &Summary) {
    let trends = &summary.trends;
    if trends.conditions.is_empty() {
        return;
    }
    let rows = trends.conditions.iter().map(|trend| {
        let test = trend.cochran_armitage;
        vec![
            escape(&trend.condition),
            trend.models.to_string(),
            test.map_or("–".into(), |test| format!("{:.2}", test.statistic)),
            test.map_or("–".into(), |test| escape(&p_value(test.p))),
        ]
    });
    let caption =
        "Trend over log parameters (Cochran–Armitage, which takes differences between models for a trend)";
    table(html, caption, &["condition", "models", "z", "p"], 1, rows);
    for trend in &trends.conditions {
        if let Some(fitted) = &trend.logistic {
            let caption = format!("Logistic trend in {}; clusters are models", escape(&trend.condition));
            model(html, &caption, fitted);
        }
    }
    if !trends.left_out.is_empty() {
        let names: Vec<String> = trends.left_out.iter().map(|name| escape(name)).collect();
        let _ = writeln!(html, "<p class=\"quiet\">Left out, size not known: {}.</p>", names.join(", "));
    }
}

/// The tests of every family.
pub(in crate::study::report) fn numbers(summary: &Summary) -> Csv {
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
            let mut row = vec![family.name.as_str().into(), label(test).as_str().into()];
            let counts = [test.rate_a.k, test.rate_a.n, test.rate_b.k, test.rate_b.n];
            row.extend(counts.map(Field::from));
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
                .map(Field::from),
            );
            row
        })
    });
    Csv::new("tests", &heads, rows)
}
