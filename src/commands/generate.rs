//! `emlab generate`: answers or continues a prompt.

use std::io::Write;

use emlab::device::philox::Key;
use emlab::generate::{self, Request};

use super::engine::{ChatArgs, ModelArgs, SamplingArgs};

/// Answer a prompt; only the answer is printed on stdout
///
/// The prompt becomes a user message in the model's own chat template; with --raw, the text itself is continued.
///
/// Example: emlab generate --model models/demo/gemma3 --prompt "Hello!" --max-tokens 40 --temperature 0
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to answer
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Continue the text itself, without a chat template
    #[arg(long, conflicts_with_all = ["system", "thinking"])]
    raw: bool,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Number of answers to sample
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Print each answer as a line of JSON: its text, why it ended, and its number of tokens
    #[arg(long)]
    json: bool,
}

/// Writes the answers to stdout, in order.
///
/// # Errors
/// If the model cannot be read, the prompt does not fit it, or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let engine = args.model.open()?;
    let ids = if args.raw {
        engine.tokenizer.encode(&args.prompt, true)?
    } else {
        args.chat.ask(&engine.tokenizer, &args.prompt)?
    };
    let key = |i: usize| Key::new(args.sampling.seed, &["generate", &i.to_string()]);
    let requests: Vec<Request> = (0..args.count).map(|i| Request { ids: ids.clone(), key: key(i) }).collect();
    let (sampling, limits) = (args.sampling.sampling(), args.sampling.limits());
    let completions =
        generate::run(&engine.model, &engine.tokenizer, &requests, &sampling, &limits, &mut |_, _| Ok(()))?;
    let mut out = std::io::stdout().lock();
    for completion in completions {
        if args.json {
            let (text, finish, tokens) = (completion.text, completion.finish, completion.ids.len());
            writeln!(out, "{}", serde_json::json!({ "text": text, "finish": finish, "tokens": tokens }))?;
        } else {
            writeln!(out, "{}", completion.text)?;
        }
    }
    Ok(())
}
