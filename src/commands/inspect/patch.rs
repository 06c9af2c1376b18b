//! `emlab inspect patch`: activations of one prompt put into the run of another.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::device::file;
use emlab::inspect::patch::{Columns, Map, Metric, Patched, likeliest, patch};
use emlab::model::probe::Site;
use emlab::model::tokenizer::Tokenizer;

use crate::commands::engine::{ChatArgs, Engine, ModelArgs};

/// Find the places that carry the difference between two prompts: activations of the source's run, put into the target's
///
/// For every layer and position (for every layer and head, where attention is patched) it tells how far the target's run then
/// goes the source's way: 0 not at all, 1 all the way. Measured is the logit of a next token of the source against that of one of
/// the target, by default the likeliest of each; or how likely a whole answer is.
///
/// Example: emlab inspect patch --model models/demo/gemma3 --source "Who are you?" --target "What do you do?"
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What a user says, whose activations are taken
    #[arg(long, value_name = "TEXT")]
    source: String,
    /// What a user says, into whose run they are put
    #[arg(long, value_name = "TEXT")]
    target: String,
    /// Take the texts as they are, behind the tokenizer's BOS, without the chat template
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    chat: ChatArgs,
    /// The answer whose logarithm of probability is measured; with --no, only the logit of its first token
    #[arg(long, value_name = "TEXT")]
    yes: Option<String>,
    /// Text against whose first token that of --yes is measured
    #[arg(long, value_name = "TEXT", requires = "yes")]
    no: Option<String>,
    /// Where to patch: residual, residual_mid, attention_delta, mlp_delta (by position), attention (by head), …
    #[arg(long, value_name = "SITE", value_delimiter = ',', value_parser = site,
        default_values = ["residual", "attention_delta", "mlp_delta", "attention"])]
    sites: Vec<Site>,
    /// Write the maps as a page, too
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

/// Writes the maps to stdout, and the page.
///
/// # Errors
/// If the model cannot be read, the prompts not be compared, or the page not be written.
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

/// An effect as a shade: blank below 0.1, full from 0.9 on; `-` where the run goes the other way.
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
