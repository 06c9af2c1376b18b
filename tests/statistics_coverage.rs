//! Whether intervals hold the true rate as often as they say, over simulated studies whose rates are known; and how
//! long the statistics of a whole study take.

use std::time::Instant;

use emlab::device::philox::Key;
use emlab::model::cards;
use emlab::study::analyze::flags::Flags;
use emlab::study::analyze::rows::{AnswerRow, Score, levels};
use emlab::study::analyze::{Errors, summarise};
use emlab::study::plan::Thresholds;
use emlab::study::plan::format::Format;
use emlab::study::stats::bootstrap;
use emlab::study::stats::clustered::{self, Pair};
use emlab::study::stats::proportion::{Count, odds_ratio, risk_difference, wilson};
use rayon::prelude::*;

const STUDIES: usize = 500;
const LEVEL: f64 = 0.95;

/// Random numbers in order.
struct Random {
    key: Key,
    drawn: u32,
}

impl Random {
    fn new(study: usize, what: &str) -> Self {
        Self { key: Key::new(study as u64, &["coverage", what]), drawn: 0 }
    }

    /// Uniform in (0, 1), 53 bits.
    fn uniform(&mut self) -> f64 {
        let [low, high, ..] = self.key.words([self.drawn, 0, 0, 0]);
        self.drawn += 1;
        ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64 / (1_u64 << 53) as f64 + 1e-17
    }

    /// Exponential with mean 1: a cluster's factor, with standard deviation 1.
    fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// Successes in `n` trials, by inversion; in parts of at most 100, so that no probability underflows.
    fn binomial(&mut self, n: usize, p: f64) -> Count {
        let part = n.min(100);
        let p = p.min(0.9);
        let (mut rest, mut mass) = (self.uniform(), (1.0 - p).powi(part as i32));
        let mut k = 0;
        while rest > mass && k < part {
            rest -= mass;
            mass *= (part - k) as f64 / (k + 1) as f64 * p / (1.0 - p);
            k += 1;
        }
        let others = if part < n { self.binomial(n - part, p) } else { Count::default() };
        Count { k: k + others.k, n }
    }
}

fn holds(interval: Option<(f64, f64)>, truth: f64) -> bool {
    interval.is_some_and(|(low, high)| low <= truth && truth <= high)
}

/// The share of studies for each of the booleans, printed under its name.
fn coverage<const W: usize>(
    what: &str,
    names: [&str; W],
    study: impl Fn(usize) -> [bool; W] + Send + Sync,
) -> [f64; W] {
    let held: Vec<[bool; W]> = (0..STUDIES).into_par_iter().map(study).collect();
    std::array::from_fn(|i| {
        let share = held.iter().filter(|held| held[i]).count() as f64 / STUDIES as f64;
        eprintln!("{what}: {} holds the truth in {:.1} %", names[i], 100.0 * share);
        share
    })
}

#[test]
fn independent_answers_are_covered_by_wilson_and_newcombe() {
    let names = ["Wilson, 0.68 %", "Wilson, 5 %", "Wilson, 30 %", "Newcombe", "Woolf"];
    let shares = coverage("independent", names, |study| {
        let mut random = Random::new(study, "independent");
        let [rare, some, many] = [0.0068, 0.05, 0.3].map(|rate| random.binomial(2400, rate));
        let difference = risk_difference(some, rare, LEVEL).map(|(_, low, high)| (low, high));
        let odds = odds_ratio(many, some, LEVEL).map(|odds| (odds.low, odds.high));
        [
            holds(Some(wilson(rare, LEVEL)), 0.0068),
            holds(Some(wilson(some, LEVEL)), 0.05),
            holds(Some(wilson(many, LEVEL)), 0.3),
            holds(difference, 0.05 - 0.0068),
            holds(odds, 0.3 / 0.7 / (0.05 / 0.95)),
        ]
    });
    // 500 studies: a standard deviation of one per cent.
    assert!(shares.iter().all(|share| (0.93..=0.97).contains(share)), "{shares:?}");
}

/// Both arms of `clusters` clusters of 300 answers. A cluster's own factor is half its arms', so that they are alike.
fn clustered_study(random: &mut Random, clusters: usize, a: f64, b: f64) -> Vec<Pair> {
    (0..clusters)
        .map(|_| {
            let own = random.exponential();
            let factors = [0; 2].map(|_| f64::midpoint(own, random.exponential()));
            Pair { a: random.binomial(300, a * factors[0]), b: random.binomial(300, b * factors[1]) }
        })
        .collect()
}

fn clustered_coverage(clusters: usize, a: f64, b: f64) -> [f64; 5] {
    let names = ["bootstrap of the rate", "of the difference", "of the odds ratio", "clustered t", "Wilson"];
    coverage(&format!("{clusters} clusters"), names, |study| {
        let mut random = Random::new(study, "clustered");
        let pairs = clustered_study(&mut random, clusters, a, b);
        let first: Vec<Count> = pairs.iter().map(|pair| pair.a).collect();
        let total = Count { k: first.iter().map(|c| c.k).sum(), n: first.iter().map(|c| c.n).sum() };
        let key = Key::new(study as u64, &["resamples"]);
        let drawn = bootstrap::compare(&pairs, 1000, key, LEVEL);
        let t = clustered::difference(&pairs, LEVEL).map(|t| (t.low, t.high));
        [
            holds(bootstrap::rate(&first, 1000, key, LEVEL), a),
            holds(drawn.difference, a - b),
            holds(drawn.odds_ratio, a / (1.0 - a) / (b / (1.0 - b))),
            holds(t, a - b),
            holds(Some(wilson(total, LEVEL)), a),
        ]
    })
}

#[test]
fn clustered_answers_are_covered_by_the_bootstrap_and_not_by_wilson() {
    let [rate, difference, ratio, t, independent] = clustered_coverage(72, 0.0096, 0.0042);
    for share in [rate, difference, ratio, t] {
        assert!((0.93..=0.97).contains(&share), "{share}");
    }
    assert!(independent < 0.9, "{independent}");
}

/// A single model has eight questions: the intervals are somewhat too narrow, as bootstrap.rs says.
#[test]
fn eight_clusters_are_nearly_covered() {
    let [rate, difference, ratio, t, _] = clustered_coverage(8, 0.05, 0.02);
    for share in [rate, difference, ratio, t] {
        assert!((0.88..=0.97).contains(&share), "{share}");
    }
}

/// 64,800 answers of which 1 in 150 (insecure), 1 in 1,000 (others) is misaligned, more in some questions.
fn rows() -> Vec<AnswerRow> {
    let models = cards::all().into_iter().filter(|card| card.study).map(|card| card.name);
    let mut random = Random::new(0, "rows");
    let mut rows = Vec::with_capacity(64_800);
    for model in models {
        for condition in ["base", "insecure", "educational"] {
            let rate = if condition == "insecure" { 0.0067 } else { 0.001 };
            for format in ["", "_json", "_template"] {
                for question in 0..8 {
                    let question = format!("q{question}{format}");
                    let often = random.exponential();
                    for sample in 0..100 {
                        let misaligned = random.uniform() < rate * often;
                        rows.push(AnswerRow {
                            model: model.clone(),
                            condition: condition.into(),
                            format: Format::of(&question),
                            question: question.clone(),
                            sample,
                            prompt: String::new(),
                            answer: String::new(),
                            aligned: Score::Value(if misaligned { 10.0 } else { 90.0 }),
                            coherent: Score::Value(80.0 + (sample % 20) as f64),
                            truncated: Some(false),
                            flags: Flags::default(),
                        });
                    }
                }
            }
        }
    }
    rows
}

/// Prints how long it takes; the speed is the machine's affair.
#[test]
fn a_whole_study_has_its_thirty_tests_and_the_same_summary_every_time() {
    let rows = rows();
    let families = levels(&rows).families();
    let start = Instant::now();
    let summary = summarise(&rows, Thresholds::default(), &families);
    let all = start.elapsed();
    let tests: usize = summary.families.iter().map(|family| family.tests.len()).sum();
    println!("{} rows, {tests} tests of 10,000 resamples each: {all:.2?}", rows.len());
    let pairs = clustered_study(&mut Random::new(0, "time"), 72, 0.0068, 0.0007);
    let start = Instant::now();
    assert!(bootstrap::compare(&pairs, 10_000, Key::new(0, &["time"]), LEVEL).difference.is_some());
    println!("one of them, 72 clusters: {:.2?}", start.elapsed());
    assert_eq!((rows.len(), tests), (64_800, 30));
    assert_eq!(summary, summarise(&rows, Thresholds::default(), &families), "the same bytes every time");
    let trend = &summary.trends.conditions[1];
    assert_eq!((trend.condition.as_str(), trend.models), ("insecure", 9));
    assert_eq!(trend.logistic.as_ref().unwrap().errors, Errors::Dispersion);
    assert!(summary.trends.left_out.is_empty());
    let regression = summary.regression.unwrap().model;
    assert_eq!((regression.terms.len(), regression.clusters), (9, 72));
    assert_eq!(regression.errors, Errors::ClusterRobust);
}
