//! `emlab power`: how many answers a comparison needs, and which difference a given number can detect.

use std::io::Write;

use anyhow::{Context, ensure};
use emlab::study::stats::power::{design_effect, detectable_effect, power, rate_at, sample_size};
use emlab::study::stats::proportion::cohens_h;
use serde::Serialize;

/// Compute the sample size or the power of a comparison of two rates
///
/// Two rates and --n give the power of the two-sided test. Two rates and --power give the answers needed in each group.
/// One rate and --n give the nearest rates that the test can tell from it. The effect size is Cohen's h, as in
/// statsmodels' NormalIndPower.
///
/// Answers to the same question resemble each other. --icc is the correlation between two answers in a cluster, and
/// --cluster-size the number of answers in one: n answers are then worth n / (1 + (size − 1)·icc) independent ones.
///
/// Example: emlab power 0.96% 0.42% --n 7200
///
/// Example: emlab power 0.96% 0.42% --power 0.9 --icc 0.01 --cluster-size 100
///
/// Example: emlab power 0.07% --n 800
#[derive(clap::Args)]
pub struct Args {
    /// One or two rates, as proportions (0.0068) or percentages (0.68%)
    #[arg(required = true, num_args = 1..=2, value_name = "RATE", value_parser = share)]
    rates: Vec<f64>,
    /// Answers in each group
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    n: Option<u64>,
    /// Probability of detecting the difference [default: 0.8, unless it is what is computed]
    #[arg(long, value_parser = share)]
    power: Option<f64>,
    /// Significance level of the test; for a Bonferroni correction, divide it by the number of tests
    #[arg(long, default_value = "0.05", value_parser = share)]
    alpha: f64,
    /// Intraclass correlation: that between two answers in a cluster
    #[arg(long, requires = "cluster_size", value_parser = share)]
    icc: Option<f64>,
    /// Answers in a cluster
    #[arg(long, requires = "icc", value_name = "SIZE", value_parser = clap::value_parser!(u64).range(1..))]
    cluster_size: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Every quantity, given or computed.
#[derive(Serialize)]
struct Answer {
    rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_rate: Option<f64>,
    /// The nearest lower rate that the test tells from `rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lower_rate: Option<f64>,
    /// The nearest higher rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    higher_rate: Option<f64>,
    cohens_h: f64,
    /// Answers in each group.
    n: u64,
    design_effect: f64,
    alpha: f64,
    power: f64,
}

/// Runs the command.
///
/// # Errors
/// If the arguments leave nothing to compute, or too much.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let answer = answer(args)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        return writeln!(out, "{}", serde_json::to_string_pretty(&answer)?).context("stdout");
    }
    write!(out, "{}", table(&answer)).context("stdout")
}

fn answer(args: &Args) -> anyhow::Result<Answer> {
    let alpha = args.alpha;
    ensure!(alpha > 0.0 && alpha < 1.0, "--alpha must lie between 0 and 1");
    let wanted = args.power.unwrap_or(0.8);
    ensure!(wanted > alpha && wanted < 1.0, "--power must lie between alpha ({alpha}) and 1");
    let effect = args.icc.zip(args.cluster_size).map_or(1.0, |(icc, size)| design_effect(size as f64, icc));
    let known = Answer {
        rate: args.rates[0],
        other_rate: args.rates.get(1).copied(),
        lower_rate: None,
        higher_rate: None,
        cohens_h: 0.0,
        n: args.n.unwrap_or(0),
        design_effect: effect,
        alpha,
        power: wanted,
    };
    let worth = known.n as f64 / effect;
    match (known.other_rate, args.n) {
        (Some(_), Some(_)) if args.power.is_some() => {
            anyhow::bail!("two rates, --n and --power leave nothing to be found: leave one out")
        }
        (Some(other), Some(_)) => {
            let h = cohens_h(known.rate, other);
            Ok(Answer { cohens_h: h, power: power(h, worth, worth, alpha), ..known })
        }
        (Some(other), None) => {
            let h = cohens_h(known.rate, other);
            let n = sample_size(h, wanted, alpha)
                .context("the two rates are equal: no number of answers tells them apart")?;
            Ok(Answer { cohens_h: h, n: (n * effect).ceil() as u64, ..known })
        }
        (None, Some(_)) => {
            let h = detectable_effect(worth, worth, wanted, alpha).context("no effect has this power")?;
            let (lower_rate, higher_rate) = (rate_at(known.rate, -h), rate_at(known.rate, h));
            Ok(Answer { lower_rate, higher_rate, cohens_h: h, ..known })
        }
        (None, None) => anyhow::bail!("one rate leaves too much open: give a second rate, or --n"),
    }
}

fn table(answer: &Answer) -> String {
    let percent = |share: f64| format!("{:.3} %", 100.0 * share);
    let mut lines = if let Some(other) = answer.other_rate {
        vec![("rates", format!("{} and {}", percent(answer.rate), percent(other)))]
    } else {
        let told = |rate: Option<f64>| rate.map_or("none".into(), percent);
        vec![
            ("rate", percent(answer.rate)),
            ("nearest above", told(answer.higher_rate)),
            ("nearest below", told(answer.lower_rate)),
        ]
    };
    let worth = if answer.design_effect == 1.0 {
        String::new()
    } else {
        let (worth, effect) = (answer.n as f64 / answer.design_effect, answer.design_effect);
        format!(", worth {worth:.0} independent ones (design effect {effect:.2})")
    };
    lines.extend([
        ("Cohen's h", format!("{:.4}", answer.cohens_h)),
        ("n a group", format!("{}{worth}", answer.n)),
        ("alpha", format!("{}, two-sided", answer.alpha)),
        ("power", percent(answer.power)),
    ]);
    let lines: Vec<String> =
        lines.into_iter().map(|(name, value)| format!("{name:<13}  {value}\n")).collect();
    lines.concat()
}

/// "0.0068" or "0.68%": a share between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number.trim_end(), 0.01));
    let share = number.parse::<f64>().map_err(|error| error.to_string())? * unit;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("not between 0 and 1 (100%)".into()) }
}
