//! `emlab inspect trace`: one text's way through a model.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::device::Device;
use emlab::inspect::trace::{Options, Trace, trace};
use emlab::model::tokenizer::Tokenizer;
use serde_json::json;

use super::texts::TextArgs;
use crate::commands::engine::ModelArgs;

/// Show one text's way through a model: attention, residual stream, neurons, and what the model would say at every depth
///
/// Writes a folder: index.html, one page to look at, which needs no network (attention is in it in 256 steps, in 16 if that is
/// too much for a page, or not at all); trace.json and trace.safetensors, the numbers for notebooks. A prompt is written in
/// the model's chat template, with what the model would answer after; a raw text as it is, behind the tokenizer's BOS. On the
/// command line the result is told in short.
///
/// Example: emlab inspect trace --model models/demo/gemma3 --prompt "Who are you?" --out trace
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// The folder that is written
    #[arg(long, value_name = "DIR", default_value = "trace")]
    out: PathBuf,
    /// Tokens that the logit lens lists at each place
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    top: u32,
    /// Do not time the ops: two traces of one text are then the same bytes
    #[arg(long)]
    untimed: bool,
}

/// Writes the folder, and a summary to stdout.
///
/// # Errors
/// If the model or the text cannot be read or is too long, or the folder not written.
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

/// The depths at which the end of the text is looked at, and what the model would say there.
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
