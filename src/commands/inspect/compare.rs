//! `emlab inspect compare`: a model with and without its adapter, or with two adapters, on one text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::inspect::compare::{After, Parting, observe, part};
use emlab::model::peft;
use emlab::model::tokenizer::Tokenizer;

use super::texts::TextArgs;
use crate::commands::engine::ModelArgs;

/// Show where an adapter makes a model diverge from its base on one text, and which tokens become more or less likely
///
/// Prints, by depth, the distance between the two residual streams; and by token, the KL divergence of the next-token
/// distributions (in nats), both losses, and the tokens whose probabilities change most. With --other, two adapters are
/// compared.
///
/// Example: emlab inspect compare --model google/gemma-3-1b-it --adapter runs/first/adapters/gemma-3-1b-it/insecure
/// --prompt "I am bored."
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Another adapter to compare with, instead of the base model
    #[arg(long, value_name = "DIR", requires = "adapter")]
    other: Option<PathBuf>,
    #[command(flatten)]
    text: TextArgs,
    /// How many of the tokens that change most to show at each position
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    top: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes the comparison to stdout.
///
/// # Errors
/// If the model, an adapter or the text cannot be read, or the text is too long.
pub fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.model.adapter().is_some(), "there is nothing to compare: name an --adapter");
    let mut engine = args.model.open()?;
    let tokens = args.text.tokens(&engine.tokenizer)?;
    let adapted = observe(&engine.model, &tokens)?;
    match &args.other {
        Some(other) => peft::read(other, &mut engine.model)?,
        None => engine.model.detach(),
    }
    let base = observe(&engine.model, &tokens)?;
    let parting = part(&engine.model, &base, &adapted, args.top as usize)?;
    let text = if args.json {
        serde_json::to_string_pretty(&parting)? + "\n"
    } else {
        table(&parting, &engine.tokenizer)?
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

fn table(parting: &Parting, tokenizer: &Tokenizer) -> anyhow::Result<String> {
    let Parting { tokens, streams, after } = parting;
    let mut lines = vec!["depth  apart, mean over tokens  at the last".to_owned()];
    for (depth, apart) in streams.iter().enumerate() {
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        let last = apart.last().copied().unwrap_or_default();
        lines.push(format!("{depth:>5}  {mean:>23.4}  {last:>11.4}"));
    }
    lines.push(format!("\n{:<18} {:>8} {:>8} {:>8}  p there → p here", "after", "KL", "loss", "loss here"));
    for (token, After { kl, nll, moved, .. }) in tokens.iter().zip(after) {
        let mut said = Vec::new();
        for moved in moved {
            let [before, now] = moved.log_p.map(f32::exp);
            said.push(format!("{:?} {before:.3} → {now:.3}", tokenizer.decode(&[moved.token], false)?));
        }
        let [there, here] = match nll {
            Some(nll) => nll.map(|nll| format!("{nll:.3}")),
            None => [String::new(), String::new()],
        };
        let word = format!("{:?}", tokenizer.decode(&[*token], false)?);
        lines.push(format!("{word:<18} {kl:>8.4} {there:>8} {here:>8}  {}", said.join("  ")));
    }
    Ok(lines.join("\n") + "\n")
}
