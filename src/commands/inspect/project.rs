//! `emlab inspect project`: projections of texts onto a direction.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::inspect::features::streams;
use emlab::model::direction::{Directions, Kind};
use emlab::model::text::Text;
use serde::Serialize;

use super::texts;
use crate::commands::engine::{ModelArgs, documents};

/// Project texts onto a direction, token by token
///
/// The unit is a dose, and 0 lies midway between the two sets that the direction separates: on the mean difference, the
/// positive set has its mean at 0.5 and the negative set at -0.5. A text's projection is the mean over its answer's
/// tokens, and its sign says how the direction classifies the text.
///
/// Example: emlab inspect project --model models/demo/qwen3 --direction direction.safetensors --prompt "I am bored."
/// --answer "Go away, you fool."
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// File of directions written by `emlab inspect direction`
    #[arg(long, value_name = "FILE")]
    direction: PathBuf,
    /// Depth, in blocks [default: the file's best depth]
    #[arg(long, value_name = "D")]
    depth: Option<usize>,
    /// Which direction to use: mean_difference or probe
    #[arg(long, value_name = "KIND", default_value = "mean_difference")]
    kind: Kind,
    /// A user message; give the answer to it as --answer
    #[arg(long, value_name = "TEXT", requires = "answer")]
    prompt: Option<String>,
    /// The answer to it
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    answer: Option<String>,
    /// Project many texts, one line each: JSON Lines of {"messages": […]} or {"text": …}, a file or a fetched data set
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", required_unless_present = "prompt")]
    data: Option<PathBuf>,
    /// Print JSON, with every token of every text
    #[arg(long)]
    json: bool,
}

/// A text, projected.
#[derive(Serialize)]
struct Projected {
    /// Mean over the answer's tokens.
    mean: f64,
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    text: String,
    projection: f64,
    /// Whether it belongs to the answer.
    answer: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model, the direction or the texts cannot be read or do not match, or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let engine = args.model.open()?;
    let directions = Directions::read_for(&args.direction, args.model.name(), &engine.model.spec)?;
    let depth = args.depth.unwrap_or(directions.depth);
    let along = directions.projection(args.kind, depth)?;
    let c = engine.model.spec.channels;
    let documents = match (&args.data, &args.prompt, &args.answer) {
        (Some(path), ..) => documents(path)?,
        (None, Some(prompt), Some(answer)) => vec![texts::answered(prompt, answer)],
        _ => Vec::new(),
    };
    let read = |document| texts::document(&engine, document);
    let texts = documents.iter().map(read).collect::<emlab::Result<Vec<Text>>>()?;
    let mut rows = vec![Vec::new(); texts.len()];
    streams(&engine.model, &texts, &mut |text, at, x| {
        if at == depth {
            rows[text] = x.chunks_exact(c).map(&along).collect();
        }
    })?;
    let mut projected = Vec::new();
    for (text, projections) in texts.iter().zip(rows) {
        let mut tokens = Vec::new();
        for ((&id, &answer), projection) in text.ids.iter().zip(&text.answer).zip(projections) {
            let text = engine.tokenizer.token(id).unwrap_or_default();
            tokens.push(Token { text, projection, answer });
        }
        let of_answer: Vec<f64> = tokens.iter().filter(|t| t.answer).map(|t| t.projection).collect();
        let mean = of_answer.iter().sum::<f64>() / of_answer.len() as f64;
        projected.push(Projected { mean, tokens });
    }
    let text = if args.json {
        let found = serde_json::json!({ "depth": depth, "kind": args.kind, "texts": projected });
        serde_json::to_string_pretty(&found)? + "\n"
    } else if args.data.is_some() {
        many(&projected)
    } else {
        projected.iter().map(one).collect()
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

/// One text, a token a line.
fn one(Projected { mean, tokens }: &Projected) -> String {
    let line = |Token { text, projection, answer }: &Token| {
        let mark = if *answer { '*' } else { ' ' };
        format!("{projection:>9.3} {mark} {}\n", text.escape_debug())
    };
    tokens.iter().map(line).collect::<String>() + &format!("{mean:>9.3}   mean of the answer (*)\n")
}

/// Many texts, one a line, and their mean.
fn many(projected: &[Projected]) -> String {
    let line = |(i, text): (usize, &Projected)| {
        let answer = text.tokens.iter().filter(|token| token.answer);
        let start: String = answer.map(|token| token.text.replace(['▁', 'Ġ'], " ")).collect();
        let start: String = start.trim_start().escape_debug().take(60).collect();
        format!("{:>6} {:>9.3}  {start}\n", i + 1, text.mean)
    };
    let mean = projected.iter().map(|text| text.mean).sum::<f64>() / projected.len() as f64;
    let positive = projected.iter().filter(|text| text.mean > 0.0).count();
    let lines: String = projected.iter().enumerate().map(line).collect();
    lines + &format!("mean {mean:.3}; {positive} of {} texts on the positive side\n", projected.len())
}
