//! The families of tests that the plan declares.

use std::collections::BTreeMap;

use serde::Serialize;

use super::clusters::Cluster;
use super::counts::Rate;
use crate::device::philox::Key;
use crate::study::plan::family::{Comparison, Family};
use crate::study::stats::clustered::{self, Pair};
use crate::study::stats::multiple::{Correction, adjust};
use crate::study::stats::proportion::{
    Count, cohens_h, fisher_exact, odds_ratio, risk_difference, two_proportion_z,
};
use crate::study::stats::{bootstrap, power};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;

/// A family's tests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FamilyResult {
    /// Its name.
    pub name: String,
    /// How its p values are corrected.
    pub correction: Correction,
    /// Its tests.
    pub tests: Vec<TestResult>,
}

/// Two rates compared, over the answers that count. Undefined values are none.
///
/// z, p, Fisher's p and the intervals without `clustered` or `bootstrap` in their names take the answers as
/// independent. Those with it allow answers of the same model to the same question to depend on each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestResult {
    /// What is compared.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// The level of the factor that it is compared within.
    pub level: Option<String>,
    /// Misaligned in the first arm.
    pub rate_a: Rate,
    /// Misaligned in the second arm.
    pub rate_b: Rate,
    /// The first rate less the second.
    pub difference: Option<f64>,
    /// Newcombe's interval.
    pub difference_interval: Option<(f64, f64)>,
    /// The interval of the cluster bootstrap.
    pub difference_bootstrap: Option<(f64, f64)>,
    /// The pooled z.
    pub z: Option<f64>,
    /// Its two-sided p.
    pub p: Option<f64>,
    /// The same, corrected for the family.
    pub p_corrected: Option<f64>,
    /// Fisher's exact two-sided p.
    pub fisher_p: Option<f64>,
    /// Clusters: models × questions.
    pub clusters: usize,
    /// Two-sided p of the difference over its cluster-robust error.
    pub p_clustered: Option<f64>,
    /// The same, corrected for the family.
    pub p_clustered_corrected: Option<f64>,
    /// The odds of the first arm over those of the second.
    pub odds_ratio: Option<f64>,
    /// Woolf's interval.
    pub odds_ratio_interval: Option<(f64, f64)>,
    /// A count was 0, and ½ was added to all four for the odds ratio.
    pub odds_ratio_half_added: bool,
    /// The interval of the cluster bootstrap.
    pub odds_ratio_bootstrap: Option<(f64, f64)>,
    /// Cohen's h.
    pub cohens_h: Option<f64>,
    /// The probability that the z test finds an effect as large as the one seen.
    pub power: Option<f64>,
}

/// The results of every family, in order.
pub(super) fn results(clusters: &[Cluster], families: &[Family], level: f64) -> Vec<FamilyResult> {
    families.iter().map(|family| result(clusters, family, level)).collect()
}

fn result(clusters: &[Cluster], family: &Family, level: f64) -> FamilyResult {
    let mut tests = Vec::new();
    for comparison in &family.comparisons {
        match comparison.within {
            None => tests.push(test(clusters, &family.name, comparison, None, level)),
            Some(within) => {
                let mut levels: Vec<&str> = Vec::new();
                for cluster in clusters {
                    if !levels.contains(&cluster.level(within)) {
                        levels.push(cluster.level(within));
                    }
                }
                tests.extend(
                    levels
                        .into_iter()
                        .map(|name| test(clusters, &family.name, comparison, Some(name), level)),
                );
            }
        }
    }
    let corrected = |p: fn(&TestResult) -> Option<f64>| {
        // An undefined test was declared all the same: it counts as one that finds nothing.
        let values: Vec<f64> = tests.iter().map(|test| p(test).unwrap_or(1.0)).collect();
        adjust(&values, family.correction)
    };
    let (pooled, clustered) = (corrected(|test| test.p), corrected(|test| test.p_clustered));
    for (test, (pooled, clustered)) in tests.iter_mut().zip(pooled.into_iter().zip(clustered)) {
        test.p_corrected = test.p.map(|_| pooled);
        test.p_clustered_corrected = test.p_clustered.map(|_| clustered);
    }
    FamilyResult { name: family.name.clone(), correction: family.correction, tests }
}

fn test(
    clusters: &[Cluster],
    family: &str,
    comparison: &Comparison,
    within: Option<&str>,
    level: f64,
) -> TestResult {
    let pairs = pairs(clusters, comparison, within);
    let sum = |arm: fn(&Pair) -> Count| {
        pairs
            .iter()
            .map(arm)
            .fold(Count::default(), |sum, count| Count { k: sum.k + count.k, n: sum.n + count.n })
    };
    let (a, b) = (sum(|pair| pair.a), sum(|pair| pair.b));
    let z = two_proportion_z(a, b);
    let difference = risk_difference(a, b, level);
    let odds = odds_ratio(a, b, level);
    let h = a.rate().zip(b.rate()).map(|(a, b)| cohens_h(a, b));
    let key = Key::new(0, &["bootstrap", family, &comparison.label(), within.unwrap_or_default()]);
    let drawn = bootstrap::compare(&pairs, RESAMPLES, key, level);
    TestResult {
        comparison: comparison.clone(),
        level: within.map(String::from),
        rate_a: Rate::new(a.k, a.n, level),
        rate_b: Rate::new(b.k, b.n, level),
        difference: difference.map(|(difference, ..)| difference),
        difference_interval: difference.map(|(_, low, high)| (low, high)),
        difference_bootstrap: drawn.difference,
        z: z.map(|z| z.statistic),
        p: z.map(|z| z.p),
        p_corrected: None,
        fisher_p: (a.n > 0 && b.n > 0).then(|| fisher_exact(a, b)),
        clusters: pairs.len(),
        p_clustered: clustered::difference(&pairs, level).map(|difference| difference.p),
        p_clustered_corrected: None,
        odds_ratio: odds.map(|odds| odds.ratio),
        odds_ratio_interval: odds.map(|odds| (odds.low, odds.high)),
        odds_ratio_half_added: odds.is_some_and(|odds| odds.corrected),
        odds_ratio_bootstrap: drawn.odds_ratio,
        cohens_h: h,
        power: h.map(|h| power::power(h, a.n as f64, b.n as f64, 1.0 - level)),
    }
}

/// Both arms of each unit (model, question) that has answers in either.
fn pairs(clusters: &[Cluster], comparison: &Comparison, within: Option<&str>) -> Vec<Pair> {
    let Comparison { compare, a, b, only, .. } = comparison;
    let wanted = |cluster: &&Cluster| {
        let inside =
            comparison.within.zip(within).is_none_or(|(factor, level)| cluster.level(factor) == level);
        inside && only.iter().all(|(factor, level)| cluster.level(*factor) == level)
    };
    let mut units: BTreeMap<_, Pair> = BTreeMap::new();
    for cluster in clusters.iter().filter(wanted) {
        let level = cluster.level(*compare);
        if level == a || level == b {
            let pair = units.entry(cluster.unit()).or_default();
            let count = if level == a { &mut pair.a } else { &mut pair.b };
            count.k += cluster.count.k;
            count.n += cluster.count.n;
        }
    }
    units.into_values().collect()
}
