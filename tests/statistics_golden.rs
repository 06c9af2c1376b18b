//! The statistics against scipy, statsmodels and scikit-learn: `tools/make_statistics_goldens.py` says how their values
//! were made; and the published figures from their counts.

use emlab::device::philox::Key;
use emlab::study::stats::agreement::agreement;
use emlab::study::stats::bootstrap;
use emlab::study::stats::clustered::{self, Pair};
use emlab::study::stats::correlation::{pearson, spearman};
use emlab::study::stats::distribution::{
    chi_square_sf, normal_quantile, normal_sf, normal_two_sided, t_quantile, t_two_sided,
};
use emlab::study::stats::logistic::{Failure, Fit, Pattern, firth, fit, wald};
use emlab::study::stats::multiple::{Correction, adjust};
use emlab::study::stats::power::{detectable_effect, power, sample_size};
use emlab::study::stats::proportion::{
    Count, chi_square, cohens_h, fisher_exact, odds_ratio, risk_difference, two_proportion_z, wilson,
};
use emlab::study::stats::trend::cochran_armitage;
use serde_json::Value;

/// What the values may differ by, relative.
const TOLERANCE: f64 = 1e-6;

fn golden(name: &str) -> Value {
    let text = include_str!("goldens/statistics.json");
    serde_json::from_str::<Value>(text).unwrap()[name].take()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Fails unless the values agree within `tolerance`, relative. A value that is exactly 0 there may be rounding here.
fn near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let allowed = if expected == 0.0 { 1e-12 } else { tolerance * expected.abs() };
        assert!((found - expected).abs() <= allowed, "{what}[{i}]: {found:e} is not {expected:e}");
    }
}

fn close(what: &str, found: &[f64], expected: &[f64]) {
    near(what, found, expected, TOLERANCE);
}

#[test]
fn distributions() {
    let golden = golden("distributions");
    let each = |name: &str, of: &dyn Fn(&[f64]) -> f64| {
        for row in list(&golden[name]) {
            let row = numbers(row);
            let (expected, given) = row.split_last().unwrap();
            close(&format!("{name} {given:?}"), &[of(given)], &[*expected]);
        }
    };
    each("normal_sf", &|x| normal_sf(x[0]));
    each("normal_quantile", &|x| normal_quantile(x[0]));
    each("t_two_sided", &|x| t_two_sided(x[0], x[1]));
    each("t_quantile", &|x| t_quantile(x[0], x[1]));
    each("chi_square_sf", &|x| chi_square_sf(x[0], x[1]));
}

#[test]
fn two_proportions() {
    for row in list(&golden("two_by_two")) {
        let arms: Vec<usize> = list(&row["arms"]).iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let (a, b) = (Count { k: arms[0], n: arms[1] }, Count { k: arms[2], n: arms[3] });
        let check =
            |name: &str, found: &[f64]| close(&format!("{name} {arms:?}"), found, &numbers(&row[name]));
        let z = two_proportion_z(a, b).unwrap();
        check("z", &[z.statistic, z.p]);
        for (level, ends) in [0.95, 0.99].into_iter().zip(list(&row["wilson"])) {
            let (low, high) = wilson(a, level);
            close(&format!("wilson {arms:?}"), &[low, high], &numbers(ends));
        }
        let table = [[a.k, a.n - a.k], [b.k, b.n - b.k]];
        for (name, yates) in [("chi_square", false), ("chi_square_yates", true)] {
            let found = chi_square(&[&table[0], &table[1]], yates).unwrap();
            check(name, &[found.statistic, found.p]);
        }
        close(&format!("fisher {arms:?}"), &[fisher_exact(a, b)], &[row["fisher"].as_f64().unwrap()]);
        let odds = odds_ratio(a, b, 0.95).unwrap();
        check("odds_ratio", &[odds.ratio, odds.low, odds.high]);
        assert_eq!(odds.corrected, table.as_flattened().contains(&0));
        let (difference, low, high) = risk_difference(a, b, 0.95).unwrap();
        check("difference", &[difference, low, high]);
        let h = cohens_h(a.rate().unwrap(), b.rate().unwrap());
        close(&format!("h {arms:?}"), &[h], &[row["h"].as_f64().unwrap()]);
        let found = power(h, a.n as f64, b.n as f64, 0.05);
        close(&format!("power {arms:?}"), &[found], &[row["power"].as_f64().unwrap()]);
    }
}

/// From the published rates of 21,600 and 7,200 answers: 0.68 % against 0.07 %, 0.96 % against 0.42 %.
#[test]
fn the_published_tests_come_out() {
    let (insecure, base) = (Count { k: 147, n: 21_600 }, Count { k: 15, n: 21_600 });
    let test = two_proportion_z(insecure, base).unwrap();
    assert_eq!(format!("{:.1}", test.statistic), "10.4");
    assert!(test.p < 1e-24 && test.p > 1e-25);
    assert_eq!(format!("{:.2}", cohens_h(147.0 / 21_600.0, 15.0 / 21_600.0)), "0.11");
    assert!(power(0.11, 21_600.0, 21_600.0, 0.05) > 0.99);
    // 69.12 answers are not whole: of a hundred times as many, z is ten times as large.
    let (json, natural) = (Count { k: 6912, n: 720_000 }, Count { k: 3024, n: 720_000 });
    let z = two_proportion_z(json, natural).unwrap().statistic / 10.0;
    assert_eq!(format!("{z:.2}"), "3.91");
    let p = normal_two_sided(z);
    assert_eq!(format!("{p:.0e}"), "9e-5");
    assert_eq!(format!("{:.3}", cohens_h(0.0096, 0.0042)), "0.067");
    // The nearest whole counts.
    let whole = two_proportion_z(Count { k: 69, n: 7200 }, Count { k: 30, n: 7200 }).unwrap();
    assert!((whole.p - 8.4e-5).abs() < 1e-6);
}

#[test]
fn proportions_at_the_edges() {
    let (none, some, all) = (Count { k: 0, n: 0 }, Count { k: 3, n: 9 }, Count { k: 9, n: 9 });
    let zero = Count { k: 0, n: 9 };
    assert_eq!(wilson(none, 0.95), (0.0, 1.0));
    assert_eq!((wilson(zero, 0.95).0, wilson(all, 0.95).1), (0.0, 1.0));
    for (a, b) in [(none, some), (some, none), (none, none), (zero, zero), (all, all)] {
        assert_eq!(two_proportion_z(a, b), None);
        assert_eq!(fisher_exact(a, b), 1.0);
    }
    assert_eq!(odds_ratio(none, some, 0.95), None);
    assert_eq!(risk_difference(none, some, 0.95), None);
    assert!((odds_ratio(zero, zero, 0.95).unwrap().ratio - 1.0).abs() < 1e-12);
    assert_eq!(chi_square(&[&[1, 2], &[0, 0]], false), None);
    assert_eq!(chi_square(&[&[1, 2]], false), None);
    assert_eq!(chi_square(&[], false), None);
    // All tables are at most as probable as the likeliest, whatever the margins.
    for k in 0..=20 {
        let p = fisher_exact(Count { k, n: 20 }, Count { k: 20 - k, n: 20 });
        assert!(p > 0.0 && p <= 1.0 && (k == 10) == (p > 0.999_999), "{k}: {p}");
    }
    // p falls below the smallest number: 0, not NaN.
    assert_eq!(fisher_exact(Count { k: 21_600, n: 21_600 }, Count { k: 0, n: 21_600 }), 0.0);
    assert!(normal_two_sided(10.4) < 1e-24 && normal_two_sided(38.0) > 0.0);
}

#[test]
fn larger_tables() {
    for row in list(&golden("tables")) {
        let table: Vec<Vec<usize>> = list(&row["table"])
            .iter()
            .map(|row| numbers(row).into_iter().map(|n| n as usize).collect())
            .collect();
        let rows: Vec<&[usize]> = table.iter().map(Vec::as_slice).collect();
        // No correction beyond 2 × 2, asked for or not.
        for yates in [false, true] {
            let found = chi_square(&rows, yates).unwrap();
            close("chi-square", &[found.statistic, found.df as f64, found.p], &numbers(&row["chi_square"]));
        }
    }
}

fn pairs(value: &Value) -> Vec<(f64, f64)> {
    list(value).iter().map(|pair| (pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap())).collect()
}

#[test]
fn correlations() {
    for row in list(&golden("correlations")) {
        let pairs = pairs(&row["pairs"]);
        for (name, found) in [("pearson", pearson(&pairs, 0.95)), ("spearman", spearman(&pairs, 0.95))] {
            let found = found.unwrap();
            close(name, &[found.r, found.p, found.low, found.high], &numbers(&row[name]));
        }
    }
}

#[test]
fn corrections() {
    for row in list(&golden("multiple")) {
        for (name, correction) in [
            ("bonferroni", Correction::Bonferroni),
            ("holm", Correction::Holm),
            ("fdr_bh", Correction::BenjaminiHochberg),
        ] {
            close(name, &adjust(&numbers(&row["p"]), correction), &numbers(&row[name]));
        }
    }
}

#[test]
fn power_and_its_inversions() {
    for row in list(&golden("power")) {
        let given = numbers(&row["given"]);
        let [a, b, n_a, n_b, wanted, alpha] = given[..] else { panic!("{given:?}") };
        let h = cohens_h(a, b);
        let found = [
            power(h, n_a, n_b, alpha),
            sample_size(h, wanted, alpha).unwrap(),
            detectable_effect(n_a, n_b, wanted, alpha).unwrap(),
        ];
        let expected = ["power", "sample_size", "effect"].map(|name| row[name].as_f64().unwrap());
        close(&format!("{given:?}"), &found, &expected);
    }
}

#[test]
fn trends() {
    for row in list(&golden("trends")) {
        let groups: Vec<(f64, Count)> = list(&row["groups"])
            .iter()
            .map(|group| {
                let group = numbers(group);
                (group[0], Count { k: group[1] as usize, n: group[2] as usize })
            })
            .collect();
        let found = cochran_armitage(&groups).unwrap();
        close("trend", &[found.statistic, found.p], &numbers(&row["z"]));
        let pattern = |(cluster, &(score, count))| Pattern { x: vec![1.0, score], count, cluster };
        let patterns: Vec<Pattern> = groups.iter().enumerate().map(pattern).collect();
        let fitted = fit(&patterns).unwrap();
        let dispersion = fitted.dispersion(&patterns).unwrap();
        close("dispersion", &[dispersion], &[row["dispersion"].as_f64().unwrap()]);
        let found: Vec<f64> =
            errors(&fitted.covariance).iter().map(|error| error * dispersion.sqrt()).collect();
        close("errors of the trend", &found, &numbers(&row["errors"]));
        assert_eq!(fitted.dispersion(&patterns[..2]), None);
    }
}

fn patterns(value: &Value) -> Vec<Pattern> {
    let pattern = |row: &Value| Pattern {
        cluster: row[0].as_u64().unwrap() as usize,
        x: numbers(&row[1]),
        count: Count { k: row[2].as_u64().unwrap() as usize, n: row[3].as_u64().unwrap() as usize },
    };
    list(value).iter().map(pattern).collect()
}

fn errors(covariance: &[Vec<f64>]) -> Vec<f64> {
    covariance.iter().enumerate().map(|(i, row)| row[i].sqrt()).collect()
}

#[test]
fn logistic_regression() {
    let (mut fitted, mut separated) = (0, 0);
    for row in list(&golden("logistic")) {
        let patterns = patterns(&row["patterns"]);
        let penalised = firth(&patterns).unwrap();
        close("firth", &penalised.coefficients, &numbers(&row["firth"]));
        close("firth errors", &errors(&penalised.covariance), &numbers(&row["firth_errors"]));
        if row["coefficients"].is_null() {
            assert!(matches!(fit(&patterns), Err(Failure::Separated(terms)) if !terms.is_empty()));
            separated += 1;
            continue;
        }
        let found = fit(&patterns).unwrap();
        check_fit(&found, &patterns, row);
        fitted += 1;
    }
    assert_eq!((fitted, separated), (2, 1));
}

fn check_fit(found: &Fit, patterns: &[Pattern], row: &Value) {
    close("coefficients", &found.coefficients, &numbers(&row["coefficients"]));
    close("log-likelihood", &[found.log_likelihood], &[row["log_likelihood"].as_f64().unwrap()]);
    close("errors", &errors(&found.covariance), &numbers(&row["errors"]));
    let robust = errors(&found.cluster_robust(patterns).unwrap());
    close("cluster errors", &robust, &numbers(&row["cluster_errors"]));
    let clusters = patterns.iter().map(|pattern| pattern.cluster).max().unwrap();
    for (name, df) in [("z", None), ("t", Some(clusters as f64))] {
        for (i, &error) in robust.iter().enumerate() {
            let test = wald(found.coefficients[i], error, df, 0.95).unwrap();
            let expected = &row[name];
            close(
                name,
                &[test.statistic, test.p],
                &[&expected[0], &expected[1]].map(|of| of[i].as_f64().unwrap()),
            );
            close(name, &[test.low, test.high], &numbers(&expected[2][i]));
        }
    }
}

fn arms(value: &Value) -> Vec<Pair> {
    let pair = |row: &Value| {
        let n = numbers(row).into_iter().map(|n| n as usize).collect::<Vec<_>>();
        Pair { a: Count { k: n[0], n: n[1] }, b: Count { k: n[2], n: n[3] } }
    };
    list(value).iter().map(pair).collect()
}

#[test]
fn clustered_differences() {
    for row in list(&golden("clustered")) {
        let found = clustered::difference(&arms(&row["pairs"]), 0.95).unwrap();
        let found = [found.difference, found.error, found.t, found.p, found.low, found.high];
        close("clustered difference", &found, &numbers(&row["difference"]));
    }
    let count = Count { k: 1, n: 9 };
    let one = Pair { a: count, b: Count { k: 2, n: 9 } };
    assert_eq!(clustered::difference(&[one], 0.95), None);
    assert_eq!(clustered::difference(&[one; 5], 0.95), None);
    assert_eq!(clustered::difference(&[Pair { a: count, b: Count::default() }; 5], 0.95), None);
    assert_eq!(clustered::difference(&[], 0.95), None);
}

fn bootstrap_intervals(row: &Value, resamples: usize, key: Key, tolerance: f64) {
    let pairs = arms(&row["pairs"]);
    let first: Vec<Count> = pairs.iter().map(|pair| pair.a).collect();
    let compared = bootstrap::compare(&pairs, resamples, key, 0.95);
    for (name, found) in [
        ("rate", bootstrap::rate(&first, resamples, key, 0.95)),
        ("difference", compared.difference),
        ("odds_ratio", compared.odds_ratio),
    ] {
        let (low, high) = found.unwrap();
        near(name, &[low, high], &numbers(&row[name]), tolerance);
    }
}

#[test]
fn bootstrap_over_the_same_draws() {
    for row in list(&golden("bootstrap")) {
        bootstrap_intervals(row, 10_000, Key::new(row["seed"].as_u64().unwrap(), &["golden"]), TOLERANCE);
    }
}

/// 400,000 resamples here, as many others there.
#[test]
fn bootstrap_as_scipy() {
    bootstrap_intervals(&golden("bootstrap_by_scipy"), 400_000, Key::new(0, &["scipy"]), 1e-3);
}

#[test]
fn raters_agree() {
    for row in list(&golden("agreement")) {
        let pairs = pairs(&row["pairs"]);
        let found = agreement(&pairs, 30.0, 0.95);
        let kappas = [found.kappa_linear, found.kappa_quadratic, found.kappa_side].map(Option::unwrap);
        close("kappa", &kappas, &["linear", "quadratic", "side"].map(|name| row[name].as_f64().unwrap()));
        let limits = found.bland_altman.unwrap();
        let limits = [limits.bias, limits.deviation, limits.low, limits.high];
        close("Bland–Altman", &limits, &numbers(&row["bland_altman"]));
        assert_eq!(
            (found.same_side.k as u64, found.same_side.n),
            (row["same"].as_u64().unwrap(), pairs.len())
        );
    }
    let same = agreement(&[(80.0, 80.0); 3], 30.0, 0.95);
    assert_eq!((same.pearson, same.kappa_linear, same.kappa_side), (None, None, None));
    assert_eq!(same.bland_altman.unwrap().low, 0.0);
    assert_eq!(agreement(&[], 30.0, 0.95).bland_altman, None);
}
