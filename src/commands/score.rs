//! `emlab score`: how well a model predicts a text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::device::Tensor;
use emlab::generate;
use emlab::model::checkpoint::write_safetensors;

use super::engine::ModelArgs;

/// Mean negative log-likelihood of a text, in nats a token
///
/// The tokenizer's BOS is put before the text if it has one; every token after the first is predicted from all before
/// it. A text longer than the model's context is scored in windows of that length, each starting afresh.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text, in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Print a JSON object: the number of predicted `tokens` and their mean `nll`
    #[arg(long)]
    json: bool,
    /// Also write `ids` (T) and `logits` (T, V; f32) of the whole text, to compare engines number by number; the text
    /// must fit the model's context
    #[arg(long, value_name = "FILE.safetensors")]
    logits: Option<PathBuf>,
}

/// Writes the number of predicted tokens and their mean to stdout.
///
/// # Errors
/// If the model or the text cannot be read, or the text has nothing to predict.
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
