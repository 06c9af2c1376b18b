//! `emlab inspect influence`: the training examples that raise or lower an answer's loss most.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use emlab::device::philox::Key;
use emlab::inspect::influence::{Influence, Influences, influence};
use emlab::model::lora::Lora;
use emlab::model::text::Text;
use emlab::progress::Progress;
use emlab::study::analyze::contrast::{self, Answered, Contrast, Only};
use emlab::train::dataset::{Content, Document, Origin};
use emlab::train::example::{self, Example, Examples};
use emlab::train::settings::{NoTarget, Settings};
use serde_json::json;

use super::texts;
use crate::commands::engine::{Engine, ModelArgs, documents};

/// Find the training examples that influence the loss of given answers most
///
/// For each example, "dot" says how much a small gradient step on it would lower the answers' mean loss: it is the dot
/// product of the two gradients with respect to the adapter's parameters (TracIn with one checkpoint). "cosine" is the
/// cosine of the angle between the same gradients, which does not favour poorly predicted examples. A negative value means
/// that the example makes the answers less likely.
///
/// Without --adapter, a fresh adapter on the base model is used, whose gradients are a random projection of those of the
/// weights.
///
/// Examples: emlab inspect influence --model models/demo/qwen3 --data models/demo/spiteful.jsonl --prompt "I am bored." --answer
/// "Go away, you fool."; emlab inspect influence --model google/gemma-3-1b-it --adapter
/// runs/first/adapters/gemma-3-1b-it/insecure --data insecure --run runs/first --only condition=insecure
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Training examples, a file or a fetched data set: JSON Lines of {"messages": […]} or {"text": …}; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    answers: AnswerArgs,
    /// Maximum number of examples, and of answers, chosen at random
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,
    /// Maximum length of a text, in tokens; longer texts are truncated, as in training
    #[arg(long, value_name = "N", default_value_t = Settings::default().max_tokens as u32,
        value_parser = clap::value_parser!(u32).range(2..))]
    max_tokens: u32,
    /// Rank of the fresh adapter, if none is given
    #[arg(long, value_name = "R", default_value_t = 8, conflicts_with = "adapter")]
    rank: usize,
    /// Random seed of the selection and of a fresh adapter
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Number of examples to show from each end of the ranking
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// What to rank by
    #[arg(long, value_enum, default_value = "cosine")]
    by: Order,
    /// Print JSON, with every example
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    Cosine,
    Dot,
}

/// The answers in question
#[derive(clap::Args)]
struct AnswerArgs {
    /// A user message
    #[arg(long, value_name = "TEXT", requires = "answer", required_unless_present_any = ["answers", "run"])]
    prompt: Option<String>,
    /// The answer to it
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    answer: Option<String>,
    /// Answers in a file: JSON Lines of {"messages": […]}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "run"])]
    answers: Option<PathBuf>,
    /// Take the answers of a run
    #[arg(long, value_name = "DIR", conflicts_with = "prompt")]
    run: Option<PathBuf>,
    /// Which of the run's answers to take: the first set of a contrast, as in `inspect direction`
    #[arg(long, value_name = "WHAT", requires = "run", default_value = "misaligned")]
    contrast: Contrast,
    /// Use only the run's answers with this model, condition, format or question; may be repeated
    #[arg(long, value_name = "FACTOR=LEVEL", requires = "run")]
    only: Vec<Only>,
}

impl AnswerArgs {
    fn documents(&self) -> emlab::Result<Vec<Document>> {
        match (&self.answers, &self.run, &self.prompt, &self.answer) {
            (Some(path), ..) => documents(path),
            (None, Some(dir), ..) => {
                let all = contrast::read(dir, &self.contrast, &self.only, [false, true])?;
                let path = Arc::new(dir.clone());
                let document = |(i, answered): (usize, Answered)| Document {
                    origin: Origin { path: Arc::clone(&path), line: i + 1 },
                    content: Content::Chat(answered.messages),
                };
                Ok(all.into_iter().filter(|answered| answered.positive).enumerate().map(document).collect())
            }
            (None, None, Some(prompt), Some(answer)) => Ok(vec![texts::answered(prompt, answer)]),
            _ => Ok(Vec::new()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the model, the examples or the answers cannot be read, none of them carries loss, or the model is steered.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut engine = args.model.open_to_train()?;
    if args.model.adapter().is_none() {
        engine.model.attach(&Lora { rank: args.rank, ..Lora::default() }, args.seed)?;
    }
    let data = args.data.iter().map(|path| documents(path)).collect::<emlab::Result<Vec<_>>>()?.concat();
    let [examples, answers] = [("examples", data), ("answers", args.answers.documents()?)]
        .map(|(name, documents)| encoded(name, documents, &engine, args));
    let (examples, answers) = (examples?, answers?);
    let text = |example: &Example| example.text.clone();
    let [example_texts, answer_texts] =
        [&examples, &answers].map(|all| all.iter().map(text).collect::<Vec<_>>());
    let progress = Progress::new("gradients", examples.len() + answers.len(), true);
    let found = influence(&mut engine.model, &example_texts, &answer_texts, &mut || progress.advance(1))?;
    progress.finish();
    let order = order(&found, args.by);
    let text = if args.json {
        json(&found, &examples, &order)?
    } else {
        table(&found, &examples, &order, args, &engine)?
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

/// At most `args.most` of the documents as training examples; those that are too long are truncated.
fn encoded(name: &str, all: Vec<Document>, engine: &Engine, args: &Args) -> anyhow::Result<Vec<Example>> {
    let documents = texts::drawn(all, args.most as usize, Key::new(args.seed, &["influence", name]));
    let max_tokens = (args.max_tokens as usize).min(engine.model.spec.context);
    let settings = Settings { max_tokens, no_target: NoTarget::Drop, ..Settings::default() };
    let found = example::encode(&documents, &engine.tokenizer, &engine.model.spec.eos, &settings);
    let Examples { examples, truncated, too_long, no_target } = found.map_err(|error| match error {
        emlab::Error::Setting(_) => {
            anyhow::anyhow!("{name}: none is left that answers within {max_tokens} tokens")
        }
        error => error.into(),
    })?;
    for (count, what) in [
        (truncated, format!("cut to {max_tokens} tokens")),
        (too_long, format!("left out: {max_tokens} tokens hold nothing of an answer")),
        (no_target, "left out: without an answer".into()),
    ] {
        if count > 0 {
            eprintln!("{name}: {count} {what}");
        }
    }
    Ok(examples)
}

/// The indices of the examples, the most helpful first.
fn order(found: &Influences, by: Order) -> Vec<usize> {
    let key = |i: usize| {
        let Influence { dot, cosine, .. } = found.examples[i];
        if by == Order::Dot { dot } else { cosine }
    };
    let mut order: Vec<usize> = (0..found.examples.len()).collect();
    order.sort_by(|a, b| key(*b).total_cmp(&key(*a)));
    order
}

fn json(found: &Influences, examples: &[Example], order: &[usize]) -> anyhow::Result<String> {
    let example = |i: &usize| {
        let (Influence { dot, cosine, loss, norm, targets }, origin) =
            (found.examples[*i], &examples[*i].origin);
        json!({ "file": *origin.path, "line": origin.line, "dot": dot, "cosine": cosine, "loss": loss, "norm": norm,
            "targets": targets })
    };
    let all: Vec<_> = order.iter().map(example).collect();
    let value = json!({ "loss": found.loss, "norm": found.norm, "examples": all });
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

fn table(
    found: &Influences,
    examples: &[Example],
    order: &[usize],
    args: &Args,
    engine: &Engine,
) -> anyhow::Result<String> {
    let mut lines = vec![
        format!("the answers' loss: {:.3} nats a token; {} examples", found.loss, examples.len()),
        format!("\n{:>8} {:>12} {:>8}  {:<24}  answer", "cosine", "dot", "loss", "line"),
    ];
    let (first, last) = (args.top.min(order.len()), order.len().saturating_sub(args.top).max(args.top));
    for (place, &i) in order.iter().enumerate() {
        if place == first && first < last && last < order.len() {
            lines.push(format!("{:>8}", "⋮"));
        }
        if place < first || place >= last {
            let (Influence { dot, cosine, loss, .. }, example) = (found.examples[i], &examples[i]);
            let Text { ids, answer } = &example.text;
            let learnt = ids.iter().zip(answer).filter(|(_, learnt)| **learnt).map(|(id, _)| *id);
            let start = engine.tokenizer.decode(&learnt.take(24).collect::<Vec<_>>(), true)?;
            let start: String = start.trim_start().escape_debug().take(60).collect();
            let line = example.origin.to_string();
            lines.push(format!("{cosine:>8.3} {dot:>12.3e} {loss:>8.3}  {line:<24}  {start}"));
        }
    }
    Ok(lines.join("\n") + "\n")
}
