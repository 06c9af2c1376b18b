//! `emlab inspect direction`: directions that separate two sets of answers.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use emlab::device::{file, philox::Key};
use emlab::inspect::Accuracy;
use emlab::inspect::direction::{Quality, Settings, find};
use emlab::inspect::features::features;
use emlab::inspect::folds::Folds;
use emlab::model::text::Text;
use emlab::progress::Progress;
use emlab::study::analyze::contrast::{self, Contrast, Only};
use emlab::train::dataset::Content;
use serde::Serialize;

use super::texts;
use crate::commands::engine::{Engine, ModelArgs, documents};

/// Find directions in the residual stream that separate two sets of answers, and measure how well they do
///
/// The model reads each answer after its question. The features are its residual stream, averaged over the answer's
/// tokens, at every depth from 0 blocks (the embedding) to all L. Each depth gets two directions: the difference between
/// the two sets' means, and the normal of a regularised linear classifier (ridge regression on ±1 labels, that is,
/// Fisher's discriminant with a shrunk covariance), scaled to the same length.
///
/// Accuracy is measured on held-out answers, with no question on both sides of a split; chance is 0.5. p is the fraction
/// of shuffled labellings that do at least as well; it assumes that answers are exchangeable across questions. The
/// accuracy at depth 0 is what the words alone give away.
///
/// Writes FILE.safetensors, to be used with --steer, `inspect project` and plans, and FILE.json, which records how it
/// was made.
///
/// Examples: emlab inspect direction --model models/demo/qwen3 --positive models/demo/spiteful.jsonl --negative
/// models/demo/friendly.jsonl; emlab inspect direction --model google/gemma-3-1b-it --adapter
/// runs/first/adapters/gemma-3-1b-it/insecure --run runs/first --contrast misaligned --only condition=insecure
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sets: SetArgs,
    /// Output file; the JSON is written beside it
    #[arg(long, value_name = "FILE.safetensors", default_value = "direction.safetensors")]
    out: PathBuf,
    /// Maximum number of answers from each set, chosen at random
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,
    /// Number of cross-validation folds
    #[arg(long, value_name = "K", default_value_t = 5)]
    folds: usize,
    /// Allow answers to the same question on both sides of a split
    #[arg(long)]
    split_questions: bool,
    /// Regularisation strength of the probe, in units of a channel's mean variance
    #[arg(long, value_name = "X", default_value_t = Settings::default().ridge)]
    ridge: f64,
    /// Number of shuffled labellings for p; 0 computes none
    #[arg(long, value_name = "N", default_value_t = Settings::default().permutations)]
    permutations: usize,
    /// Random seed of the selection, the folds and the shuffles
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print the JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// The two sets of answers
#[derive(clap::Args)]
struct SetArgs {
    /// Chats whose answers the direction points towards: JSON Lines of {"messages": […]}, a file or a fetched data set
    #[arg(long, value_name = "FILE", requires = "negative", required_unless_present = "run")]
    positive: Option<PathBuf>,
    /// Chats whose answers the direction points away from
    #[arg(long, value_name = "FILE", requires = "positive")]
    negative: Option<PathBuf>,
    /// Take both sets from the answers of a run instead
    #[arg(long, value_name = "DIR", requires = "contrast", conflicts_with = "positive")]
    run: Option<PathBuf>,
    /// How the two sets differ: misaligned (against aligned, by the plan's thresholds), or two levels of a factor, the
    /// positive first, such as condition=insecure/base or format=json/natural
    #[arg(long, value_name = "WHAT", requires = "run")]
    contrast: Option<Contrast>,
    /// Use only the run's answers with this model, condition, format or question; may be repeated
    #[arg(long, value_name = "FACTOR=LEVEL", requires = "run")]
    only: Vec<Only>,
}

/// The tokens of a question and its answer.
struct Example {
    text: Text,
    question: String,
    positive: bool,
}

/// The JSON beside the directions.
#[derive(Serialize)]
struct Record<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a Path>,
    /// The number of answers in each set, and of distinct questions.
    positive: usize,
    negative: usize,
    questions: usize,
    folds: usize,
    split_questions: bool,
    #[serde(flatten)]
    settings: Settings,
    /// The best depth.
    depth: usize,
    depths: &'a [Quality],
}

/// Runs the command.
///
/// # Errors
/// If the model or the answers cannot be read, a set is empty, there are too few questions for the folds, or a file cannot be
/// written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let beside = args.out.with_extension("json");
    anyhow::ensure!(
        beside != args.out,
        "{}: is the JSON's own name; end it in .safetensors",
        args.out.display()
    );
    let engine = args.model.open()?;
    let examples = drawn(examples(&args.sets, &engine)?, args.most as usize, args.seed);
    let positive: Vec<bool> = examples.iter().map(|example| example.positive).collect();
    let groups = |(i, example): (usize, &Example)| {
        if args.split_questions { i.to_string() } else { example.question.clone() }
    };
    let groups: Vec<String> = examples.iter().enumerate().map(groups).collect();
    let folds = Folds::new(&positive, &groups, args.folds, args.seed)?;
    let mut questions: Vec<String> = examples.iter().map(|example| example.question.clone()).collect();
    questions.sort_unstable();
    questions.dedup();
    let texts: Vec<Text> = examples.into_iter().map(|example| example.text).collect();
    let mut progress = Progress::new("read answers", texts.len(), true);
    let shown = &mut progress;
    let features = features(&engine.model, &texts, &mut move || shown.advance(1))?;
    progress.finish();
    let settings = Settings { ridge: args.ridge, permutations: args.permutations, seed: args.seed };
    let found = find(&features, &positive, &folds, &settings)?;
    let count = |class: bool| positive.iter().filter(|positive| **positive == class).count();
    let record = Record {
        model: args.model.name(),
        adapter: args.model.adapter(),
        positive: count(true),
        negative: count(false),
        questions: questions.len(),
        folds: args.folds,
        split_questions: args.split_questions,
        settings,
        depth: found.directions.depth,
        depths: &found.qualities,
    };
    let json = serde_json::to_string_pretty(&record)? + "\n";
    found.directions.write(&args.out)?;
    file::replace(&beside, |out| out.write_all(json.as_bytes()))?;
    let text = if args.json { json } else { table(&record, &args.out) };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

/// Every answer of both sets.
fn examples(sets: &SetArgs, engine: &Engine) -> anyhow::Result<Vec<Example>> {
    let mut examples = Vec::new();
    if let (Some(dir), Some(contrast)) = (&sets.run, &sets.contrast) {
        for answered in contrast::read(dir, contrast, &sets.only, [true, true])? {
            let text = texts::chat(engine, &answered.messages)?;
            examples.push(Example { text, question: answered.question, positive: answered.positive });
        }
    }
    for (positive, path) in [(true, &sets.positive), (false, &sets.negative)] {
        let Some(path) = path else { continue };
        for document in documents(path)? {
            let Content::Chat(messages) = &document.content else {
                return Err(document.origin.error("a text without a question: expected \"messages\"").into());
            };
            let text = texts::document(engine, &document)?;
            // The question is everything before the last answer.
            let last = messages.iter().rposition(|message| message.role == "assistant").unwrap_or(0);
            let question = serde_json::to_string(&messages[..last])?;
            examples.push(Example { text, question, positive });
        }
    }
    Ok(examples)
}

/// At most `most` examples from each set.
fn drawn(examples: Vec<Example>, most: usize, seed: u64) -> Vec<Example> {
    let (positive, negative) = examples.into_iter().partition::<Vec<_>, _>(|example| example.positive);
    let drawn = |set, name| texts::drawn(set, most, Key::new(seed, &["answers", name]));
    let mut all = drawn(positive, "positive");
    all.extend(drawn(negative, "negative"));
    all
}

fn table(record: &Record, out: &Path) -> String {
    let Record { positive, negative, questions, folds, depth, depths, .. } = record;
    let mut lines = vec![
        format!(
            "{positive} positive and {negative} negative answers to {questions} questions, {folds} folds\n"
        ),
        format!(
            "{:>5}  {:<24}  {:<24}  {:>10}  {:>9}  {:>6}",
            "depth", "mean difference", "probe", "length", "of stream", "cosine"
        ),
    ];
    let accuracy = |Accuracy { accuracy, standard_error, p }: Accuracy| {
        let p = p.map_or(String::new(), |p| format!("  p {p:.3}"));
        format!("{accuracy:.3} ± {standard_error:.3}{p}")
    };
    for quality in *depths {
        let cosine = quality.cosine.map_or("–".into(), |cosine| format!("{cosine:.3}"));
        lines.push(format!(
            "{:>5}  {:<24}  {:<24}  {:>10.4}  {:>9.4}  {cosine:>6}",
            quality.depth,
            accuracy(quality.mean_difference),
            accuracy(quality.probe),
            quality.length,
            quality.relative_length,
        ));
    }
    lines.push(format!("\n{}: best at depth {depth}", out.display()));
    lines.join("\n") + "\n"
}
