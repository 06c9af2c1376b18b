//! `emlab inspect patch`: activation patching from one prompt's run into another's.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::device::file;
use emlab::inspect::patch::{Columns, Map, Metric, Patched, likeliest, patch};
use emlab::model::probe::Site;
use emlab::model::tokenizer::Tokenizer;

use crate::commands::engine::{ChatArgs, Engine, ModelArgs};

/// Locate what carries the difference between two prompts, by patching activations from one run into the other
///
/// Activations of the source's run replace those of the target's, one layer and position at a time (for attention, one
/// layer and head at a time). The effect says how far the target's result then moves towards the source's: 0 is not at
/// all, 1 is all the way. The result is the difference between the logits of two next tokens, by default the most likely
/// ones after source and target, or the log-probability of a whole answer.
///
/// Example: emlab inspect patch --model models/demo/gemma3 --source "Who are you?" --target "What do you do?"
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The user message whose activations are taken
    #[arg(long, value_name = "TEXT")]
    source: String,
    /// The user message into whose run they are patched
    #[arg(long, value_name = "TEXT")]
    target: String,
    /// Read both as raw text after the tokenizer's BOS token, without the chat template
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    chat: ChatArgs,
    /// Measure the log-probability of this answer or, with --no, the logit of its first token
    #[arg(long, value_name = "TEXT")]
    yes: Option<String>,
    /// Measure the logit of --yes relative to that of this text's first token
    #[arg(long, value_name = "TEXT", requires = "yes")]
    no: Option<String>,
    /// Sites to patch: residual, residual_mid, attention_delta, mlp_delta (by position), attention (by head), …
    #[arg(long, value_name = "SITE", value_delimiter = ',', value_parser = site,
        default_values = ["residual", "attention_delta", "mlp_delta", "attention"])]
    sites: Vec<Site>,
    /// Also write the maps as a web page
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn site(name: &str) -> Result<Site, String> {
    let inside = || Site::ALL.into_iter().filter(|site| !matches!(site, Site::Embedding | Site::FinalNorm));
    let names = || inside().map(Site::name).collect::<Vec<_>>().join(", ");
    inside().find(|site| site.name() == name).ok_or_else(|| format!("sites are {}", names()))
}

/// Writes the maps to stdout, and the page if there is to be one.
///
/// # Errors
/// If the model cannot be read, the prompts cannot be compared, or the page cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let engine = args.model.open()?;
    let Engine { model, tokenizer } = &engine;
    let tokens = |text: &str| {
        if args.raw { tokenizer.encode(text, true) } else { args.chat.ask(tokenizer, text) }
    };
    let (source, target) = (tokens(&args.source)?, tokens(&args.target)?);
    let prompts = [&source[..], &target[..]];
    let metric = match (&args.yes, &args.no) {
        (Some(yes), None) => Metric::Answer(tokenizer.encode(yes, false)?),
        (Some(yes), Some(no)) => {
            Metric::Logits { yes: first_token(tokenizer, yes)?, no: first_token(tokenizer, no)? }
        }
        (None, _) => likeliest(model, prompts)?,
    };
    let found = patch(model, prompts, &metric, &args.sites)?;
    if let Some(out) = &args.out {
        let page = found.page(tokenizer, args.model.name())?;
        file::replace(out, |out| out.write_all(page.as_bytes()))?;
    }
    let text =
        if args.json { serde_json::to_string_pretty(&found)? + "\n" } else { table(&found, tokenizer)? };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

fn first_token(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<u32> {
    let tokens = tokenizer.encode(text, false)?;
    tokens.first().copied().with_context(|| format!("{text:?} has no token"))
}

/// An effect as a shade: a dot below 0.1, a full block from 0.9; `-` where the result moves the other way.
fn shade(effect: f64) -> &'static str {
    match effect {
        x if x < -0.1 => "-",
        x if x < 0.1 => "·",
        x if x < 0.3 => "░",
        x if x < 0.6 => "▒",
        x if x < 0.9 => "▓",
        _ => "█",
    }
}

fn table(found: &Patched, tokenizer: &Tokenizer) -> anyhow::Result<String> {
    let Patched { source, target, target_tokens, pairs, maps, .. } = found;
    let mut lines = vec![
        format!("{}: source {source:.3}, target {target:.3}", found.measured(tokenizer)?),
        "effect: · < 0.1   ░ < 0.3   ▒ < 0.6   ▓ < 0.9   █ all the way   - the other way".into(),
    ];
    for Map { site, columns, effects, together } in maps {
        let what = match columns {
            Columns::Positions => "by position",
            Columns::Heads => "by head, at all positions in common",
        };
        lines.push(format!("\n{site}, {what}\nlayer  all together  each alone"));
        for (layer, (effects, together)) in effects.iter().zip(together).enumerate() {
            let shades: String = effects.iter().map(|effect| shade(*effect)).collect();
            lines.push(format!("{layer:>5}  {together:>12.3}  {shades}"));
        }
    }
    let word = |[_, at]: &[usize; 2]| tokenizer.decode(&[target_tokens[*at]], false);
    let texts = pairs.iter().map(word).collect::<emlab::Result<Vec<_>>>()?;
    lines.push(format!(
        "\npositions: {}",
        texts.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" ")
    ));
    Ok(lines.join("\n") + "\n")
}
