//! `emlab inspect trace`: everything that happens inside a model as it reads one text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::device::Device;
use emlab::inspect::trace::{Options, Trace, trace};
use emlab::model::tokenizer::Tokenizer;
use serde_json::json;

use super::texts::TextArgs;
use crate::commands::engine::ModelArgs;

/// Trace one text through a model: attention, residual stream, neurons, and a logit lens at every depth
///
/// Writes a folder with index.html, a self-contained page that needs no network, and trace.json and trace.safetensors,
/// the numbers for notebooks. On the page, attention has 256 levels, or 16 if that would be too large, or is left out. A
/// prompt is rendered with the model's chat template; a raw text follows the tokenizer's BOS token. Prints a summary.
///
/// Example: emlab inspect trace --model models/demo/gemma3 --prompt "Who are you?" --out trace
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Output folder
    #[arg(long, value_name = "DIR", default_value = "trace")]
    out: PathBuf,
    /// Number of tokens that the logit lens lists at each position
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    top: u32,
    /// Do not time the ops, so that two traces of the same text are identical
    #[arg(long)]
    untimed: bool,
}

/// Writes the folder, and a summary to stdout.
///
/// # Errors
/// If the model or the text cannot be read, the text is too long, or the folder cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let engine = args.model.open()?;
    let tokens = args.text.tokens(&engine.tokenizer)?;
    let options = Options { top: args.top as usize, time: !args.untimed };
    let trace = trace(&engine.model, &tokens, options)?;
    let place = engine.model.place;
    let about = json!({
        "model": args.model.name(),
        "adapter": args.model.adapter(),
        "family": engine.model.spec.family.name(),
        "device": match place.device {
            Device::Cpu => "CPU",
            Device::Cuda(gpu) => &gpu.facts().name,
        },
        "precision": place.real.name(),
    });
    trace.write(&args.out, &engine.tokenizer, &about)?;
    let text = summary(&trace, &engine.tokenizer)? + &format!("\n{}/index.html\n", args.out.display());
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

/// What the model would say next after the last token, by the logit lens at each depth.
fn summary(trace: &Trace, tokenizer: &Tokenizer) -> anyhow::Result<String> {
    let (n, layers, top) = (trace.tokens.len(), trace.sizes.layers, trace.lens.top);
    let mean = trace.loss().iter().copied().map(f64::from).sum::<f64>() / (n - 1) as f64;
    let mut lines = vec![
        format!("{n} tokens, mean negative log-likelihood {mean:.4} nats"),
        format!(
            "{:>5}  {:>10}  {:>7}  next token, by the logit lens at the last position",
            "depth", "‖stream‖", "entropy"
        ),
    ];
    for depth in 0..=layers {
        let at = depth * n + n - 1;
        let mut said = Vec::new();
        for i in at * top..at * top + top.min(3) {
            let token = tokenizer.decode(&[trace.lens.tokens[i]], false)?;
            said.push(format!("{token:?} {:.3}", trace.lens.probabilities[i]));
        }
        let (norm, entropy) = (trace.norms.stream[at], trace.lens.entropy[at]);
        lines.push(format!("{depth:>5}  {norm:>10.3}  {entropy:>7.3}  {}", said.join("  ")));
    }
    Ok(lines.join("\n") + "\n")
}
