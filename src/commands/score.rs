//! `emlab score`: how well a model predicts a text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::device::Tensor;
use emlab::generate;
use emlab::model::checkpoint::write_safetensors;

use super::engine::ModelArgs;

/// Compute the mean negative log-likelihood of a text, in nats per token
///
/// The text is preceded by the tokenizer's BOS token, if it has one, and every token after the first is predicted from
/// all tokens before it. A text longer than the model's context is scored in independent windows of that length.
///
/// Example: emlab score --model models/demo/qwen3 --text README.md
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// File that holds the text, in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Print a JSON object: "tokens", how many were predicted, and "nll", their mean
    #[arg(long)]
    json: bool,
    /// Also write the token ids (T) and the logits (T, V; f32), to compare engines number by number; the text must fit
    /// into the model's context
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
}

/// Writes the number of predicted tokens and their mean to stdout.
///
/// # Errors
/// If the model or the text cannot be read, or the text is too short to predict a token.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.text).with_context(|| args.text.display().to_string())?;
    let engine = args.model.open()?;
    let ids = engine.tokenizer.encode(&text, true)?;
    let nll = generate::score(&engine.model, &ids, engine.tokenizer.bos())?;
    anyhow::ensure!(!nll.is_empty(), "{}: too short: no token to predict", args.text.display());
    if let Some(path) = &args.logits {
        let logits = generate::logits(&engine.model, &ids)?;
        let ids = Tensor::from_u32(&[ids.len()], ids);
        write_safetensors(path, &[("ids".into(), &ids), ("logits".into(), &logits)], &[])?;
    }
    let mean = nll.iter().copied().map(f64::from).sum::<f64>() / nll.len() as f64;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({ "tokens": nll.len(), "nll": mean }))?;
    } else {
        writeln!(out, "{} tokens, mean negative log-likelihood {mean:.6} nats", nll.len())?;
    }
    Ok(())
}
