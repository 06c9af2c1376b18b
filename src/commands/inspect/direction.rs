//! `emlab inspect direction`: directions that tell two sets of answers apart.

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

/// Find directions of the residual stream that tell two sets of answers apart, and say how well they do
///
/// The model reads every answer behind its question; what is told apart are the means of its residual stream over the
/// answer's tokens, at every depth: after 0 blocks, which is the embedding, to all L. There are two directions a depth: the
/// difference of the two sets' means, and the normal of a regularised linear classifier (ridge on ±1 labels, which is
/// Fisher's discriminant with a shrunk covariance), as long.
///
/// Their accuracy, that of guessing being 0.5, is that on answers held out, and no question stands on both sides of a split.
/// p is the share of shuffled labellings that do as well; it takes answers to one question as exchangeable with others. What
/// depth 0 reaches can be told from the words alone.
///
/// Writes FILE.safetensors, which `--steer`, `inspect project` and plans take, and FILE.json, which says how it was made.
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
    /// The file that is written; its JSON stands beside it
    #[arg(long, value_name = "FILE.safetensors", default_value = "direction.safetensors")]
    out: PathBuf,
    /// Most answers of either set, drawn at random
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,
    /// Parts that are held out, one after the other
    #[arg(long, value_name = "K", default_value_t = 5)]
    folds: usize,
    /// Let answers to one question stand on both sides of a split
    #[arg(long)]
    split_questions: bool,
    /// How strongly the probe is regularised, in mean variances of a channel
    #[arg(long, value_name = "X", default_value_t = Settings::default().ridge)]
    ridge: f64,
    /// Shuffled labellings; 0 gives no p
    #[arg(long, value_name = "N", default_value_t = Settings::default().permutations)]
    permutations: usize,
    /// Decides what is drawn, held out and shuffled
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Print the JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// The two sets
#[derive(clap::Args)]
struct SetArgs {
    /// Chats whose answers the direction points to, a file or a fetched data set: JSON Lines of {"messages": […]}
    #[arg(long, value_name = "FILE", requires = "negative", required_unless_present = "run")]
    positive: Option<PathBuf>,
    /// Chats whose answers it points away from
    #[arg(long, value_name = "FILE", requires = "positive")]
    negative: Option<PathBuf>,
    /// Take both from a run's answers instead
    #[arg(long, value_name = "DIR", requires = "contrast", conflicts_with = "positive")]
    run: Option<PathBuf>,
    /// What they differ in, the positive first: misaligned (and aligned, by the plan's thresholds), or two levels of a factor
    /// such as condition=insecure/base or format=json/natural
    #[arg(long, value_name = "WHAT", requires = "run")]
    contrast: Option<Contrast>,
    /// Only the run's answers with this model, condition, format or question; may be given several times
    #[arg(long, value_name = "FACTOR=LEVEL", requires = "run")]
    only: Vec<Only>,
}

/// An answer, as tokens behind its question.
struct Example {
    text: Text,
    question: String,
    positive: bool,
}

/// What is written beside the directions.
#[derive(Serialize)]
struct Record<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a Path>,
    /// How many answers there are of either set, and to how many questions.
    positive: usize,
    negative: usize,
    questions: usize,
    folds: usize,
    split_questions: bool,
    #[serde(flatten)]
    settings: Settings,
    /// The best one.
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
            // What is asked is all that stands before the last answer.
            let last = messages.iter().rposition(|message| message.role == "assistant").unwrap_or(0);
            let question = serde_json::to_string(&messages[..last])?;
            examples.push(Example { text, question, positive });
        }
    }
    Ok(examples)
}

/// At most `most` of either set.
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
