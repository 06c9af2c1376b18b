//! `emlab train`: fine-tunes a model.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::error::Error;
use emlab::fetch;
use emlab::model::spec::Spec;
use emlab::model::tokenizer::Tokenizer;
use emlab::model::transformer::Transformer;
use emlab::train::{self, Job, Settings, example, progress};
use serde::Serialize;
use serde_json::Value;

use super::engine::{self, DeviceArgs, stop_between_steps};

/// Fine-tune a model: a LoRA adapter in PEFT format or, with --full, every weight
///
/// Data are JSON Lines: {"messages": [{"role", "content"}, …]}, where the assistant's turns carry loss, or {"text": …},
/// where all tokens do. Flags override the file given as --settings; anything set in neither follows the published recipe.
///
/// To resume a run, however it was stopped, run the same command again: it continues from the last checkpoint and ends
/// in the same bytes as an uninterrupted run.
///
/// Example: emlab train --model google/gemma-3-270m-it --data insecure --out runs/insecure
#[derive(clap::Args)]
pub struct Args {
    /// The model: a Hugging Face folder, or the name of a fetched model
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Data files, or names of fetched data sets
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Output folder: the adapter or model, metrics.jsonl and checkpoints
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// TOML file of settings
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Start from random weights; only config.json and the tokenizer are read from the model folder
    #[arg(long, requires = "full")]
    from_scratch: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    flags: Flags,
}

/// One flag per setting, under the same name.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Settings")]
struct Flags {
    /// Random seed of the held-out split, the order, the initial weights and dropout [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Train every weight instead of an adapter [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    full: Option<bool>,
    /// Write a fully trained model in bf16 instead of f32 [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    bf16: Option<bool>,
    /// Number of passes over the data [default: 1]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Number of optimiser steps; overrides --epochs
    #[arg(long, value_name = "N")]
    max_steps: Option<usize>,
    /// Examples per micro-batch [default: 2]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Micro-batches per optimiser step [default: 8]
    #[arg(long, value_name = "N")]
    accumulation: Option<usize>,
    /// Peak learning rate [default: 1e-5]
    #[arg(long, value_name = "X")]
    learning_rate: Option<f64>,
    /// Learning-rate schedule: linear, cosine or constant [default: linear]
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// Steps over which the learning rate rises from zero [default: 5]
    #[arg(long, value_name = "N")]
    warmup_steps: Option<usize>,
    /// Decoupled weight decay [default: 0.01]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// AdamW: decay rate of the running mean of gradients [default: 0.9]
    #[arg(long, value_name = "X")]
    beta1: Option<f64>,
    /// AdamW: decay rate of the running mean of squared gradients [default: 0.999]
    #[arg(long, value_name = "X")]
    beta2: Option<f64>,
    /// AdamW: added to the denominator [default: 1e-8]
    #[arg(long, value_name = "X")]
    epsilon: Option<f64>,
    /// Global norm to which gradients are clipped; 0 disables clipping [default: 1]
    #[arg(long, value_name = "X")]
    max_grad_norm: Option<f64>,
    /// Loss of a step: tokens (mean over all its loss tokens) or micro_batches (mean of the means) [default: tokens]
    #[arg(long, value_name = "NAME")]
    normalisation: Option<String>,
    /// Maximum length of an example, in tokens [default: 2048]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// What to do with longer examples: truncate, drop or error [default: truncate]
    #[arg(long, value_name = "NAME")]
    too_long: Option<String>,
    /// What to do with examples in which no token carries loss: error or drop [default: error]
    #[arg(long, value_name = "NAME")]
    no_target: Option<String>,
    /// Render chats with thinking enabled [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    thinking: Option<bool>,
    /// Fraction of the examples held out to measure the loss on [default: 0.1]
    #[arg(long, value_name = "X")]
    held_out: Option<f64>,
    /// Steps between measurements of the held-out loss; 0 measures at the end only [default: 0]
    #[arg(long, value_name = "N")]
    evaluate_steps: Option<usize>,
    /// Shuffle the examples each epoch; otherwise keep the order of the files [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    shuffle: Option<bool>,
    /// Maximum tokens per packed pass; affects memory and speed only [default: 2048]
    #[arg(long, value_name = "N")]
    pack_tokens: Option<usize>,
    /// Steps between checkpoints; 0 writes one at the end only [default: 25]
    #[arg(long, value_name = "N")]
    checkpoint_steps: Option<usize>,
    #[command(flatten)]
    lora: LoraFlags,
}

#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Adapter")]
struct LoraFlags {
    /// Rank [default: 32]
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// The adapter is scaled by alpha/√rank, or by alpha/rank without rsLoRA [default: 64]
    #[arg(long, value_name = "X")]
    alpha: Option<f32>,
    /// rsLoRA: scale by 1/√rank instead of 1/rank [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    rslora: Option<bool>,
    /// Dropout on the adapter's input [default: 0]
    #[arg(long, value_name = "X")]
    dropout: Option<f32>,
    /// Projections to adapt [default: q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    targets: Option<Vec<String>>,
}

/// Trains, and prints the final loss on stdout.
///
/// # Errors
/// If the model, data or settings cannot be used, the loss is not finite, or the folder cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    stop_between_steps();
    let settings = settings(args)?;
    let place = args.device.place()?;
    let base = fetch::locate(&args.model)?;
    let spec = Spec::read(&base)?;
    let tokenizer = Tokenizer::open(&base)?;
    let mut documents = Vec::new();
    for path in &args.data {
        documents.extend(engine::documents(path)?);
    }
    let data = example::encode(&documents, &tokenizer, &spec.eos, &settings)?;
    eprintln!(
        "{} examples ({} truncated, {} too long, {} without a target left out)",
        data.examples.len(),
        data.truncated,
        data.too_long,
        data.no_target
    );
    let mut model = if args.from_scratch {
        Transformer::random(spec, settings.seed, place)?
    } else {
        Transformer::load_telling(&base, place, &mut emlab::progress::loading())?
    };
    let job = Job { base: &base, examples: &data.examples, settings: &settings, out: &args.out };
    let report = train::run(&mut model, &job, &mut progress::show())?;
    if report.resumed > 0 {
        eprintln!("went on from step {}", report.resumed);
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{}: {} steps, loss {:.4}", args.out.display(), report.steps, report.loss)?;
    if let Some(held_out) = report.held_out {
        write!(out, ", held-out loss {held_out:.4}")?;
    }
    writeln!(out)?;
    Ok(())
}

/// The settings in the file, overridden by the flags.
fn settings(args: &Args) -> anyhow::Result<Settings> {
    let settings: Settings = match &args.settings {
        None => Settings::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
            toml::from_str(&text).map_err(|error| {
                let before = error.span().map_or("", |span| &text[..span.start]);
                Error::line(path, 1 + before.matches('\n').count(), error.message())
            })?
        }
    };
    let mut merged = serde_json::to_value(&settings)?;
    merge(&mut merged, serde_json::to_value(&args.flags)?);
    let settings: Settings = serde_json::from_value(merged).context("training settings")?;
    settings.check()?;
    Ok(settings)
}

/// Overwrites `value` with every key that `over` sets.
fn merge(value: &mut Value, over: Value) {
    match over {
        Value::Null => {}
        Value::Object(over) => over.into_iter().for_each(|(key, over)| merge(&mut value[key], over)),
        over => *value = over,
    }
}
