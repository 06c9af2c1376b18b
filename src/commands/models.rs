//! `emlab models`: the known checkpoints and data sets, and which of them are in the local cache.

use std::io::Write;

use emlab::fetch::{DATA_SETS, Hub};
use emlab::model::cards::{self, Card};
use serde_json::{Value, json};

/// List the known models and data sets, and which of them are in the local cache
///
/// An asterisk marks the nine models of the published study. Any other Gemma 3 or dense Qwen 3 checkpoint works, too:
/// name its folder, or ORG/NAME on the Hugging Face hub.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes the list to stdout.
///
/// # Errors
/// If there is no home folder to hold a cache, or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let hub = Hub::from_env()?;
    let models: Vec<(Card, Option<String>)> = cards::all()
        .into_iter()
        .map(|card| {
            let place = hub.locate(&card.repo).ok().map(|place| place.display().to_string());
            (card, place)
        })
        .collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", as_json(&models)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "  {:<15} {:<24} {:>9} {:>9}  {:<18} here",
        "model", "repository", "weights", "bf16", "licence"
    )?;
    for (card, place) in &models {
        let (mark, here) = (if card.study { '*' } else { ' ' }, mark(place.is_some()));
        let licence = format!("{}{}", card.licence, if card.gated { ", gated" } else { "" });
        let (weights, gib) =
            (card.parameters as f64 / 1e9, card.parameters as f64 * 2.0 / f64::from(1 << 30));
        let (name, repo) = (&card.name, &card.repo);
        writeln!(out, "{mark} {name:<15} {repo:<24} {weights:>7.2} B {gib:>5.1} GiB  {licence:<18} {here}")?;
    }
    writeln!(out, "\n  {:<15} {:<77} here", "data set", "holds")?;
    for set in DATA_SETS {
        writeln!(out, "  {:<15} {:<77} {}", set.name, set.about, mark(set.locate().is_ok()))?;
    }
    writeln!(out, "\n`emlab fetch NAME` brings one into the cache.")?;
    Ok(())
}

fn mark(here: bool) -> &'static str {
    if here { "yes" } else { "no" }
}

fn as_json(models: &[(Card, Option<String>)]) -> anyhow::Result<Value> {
    let mut list = Vec::new();
    for (card, place) in models {
        let mut value = serde_json::to_value(card)?;
        value["path"] = json!(place);
        list.push(value);
    }
    let data = DATA_SETS.map(|set| {
        let place = set.locate().ok().map(|place| place.display().to_string());
        json!({"name": set.name, "about": set.about, "sha256": set.sha256, "path": place})
    });
    Ok(json!({"models": list, "data": data}))
}
