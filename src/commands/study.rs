//! `emlab study`: a whole study from a plan.

mod cells;
mod export;
mod import;
mod status;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use emlab::study::analyze::agreement::label;
use emlab::study::analyze::agreement::pairs::{self, RaterAgreement};
use emlab::study::folder::RunFolder;
use emlab::study::plan::Plan;
use emlab::study::plan::estimate::{Estimate, GPUS, Gpu};
use emlab::study::plan::preset::Preset;
use emlab::study::run::{listing, merge};
use emlab::study::stats::agreement::BlandAltman;
use emlab::study::{self, Options};

use super::engine::{DeviceArgs, stop_between_steps};

/// Run a study: fine-tune, sample, judge, count, report
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Init(InitArgs),
    Plan(PlanArgs),
    Cells(cells::Args),
    Run(RunArgs),
    Status(status::Args),
    Judge(JudgeArgs),
    Label(LabelArgs),
    Merge(MergeArgs),
    Import(import::Args),
    Export(export::Args),
    Analyze(AnalyzeArgs),
}

/// Write a ready-made plan, with every value explicit and commented
///
/// open-weights-64800: the published study, nine models. one-model: the same for one model. formats: YAML, XML, CSV,
/// function calls, short text, the control without the JSON prompt, and enforced JSON. smoke: every step once, in minutes.
///
/// Example: emlab study init --preset one-model --model gemma-3-4b-it --out plan.toml
#[derive(clap::Args)]
struct InitArgs {
    /// Which plan
    #[arg(long, value_name = "NAME", value_parser = preset)]
    preset: Preset,
    /// The model, for presets of one (`emlab models` lists them)
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// File for the plan, which must not exist yet [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn preset(name: &str) -> Result<Preset, String> {
    let found = Preset::ALL.into_iter().find(|preset| preset.name() == name);
    found.ok_or_else(|| format!("there are: {}", Preset::ALL.map(Preset::name).join(", ")))
}

/// Estimate what a plan takes: answers, judgements and their price, time and memory on a GPU
///
/// The questions and the training data must exist (`emlab fetch data`); the models need not. Times are based on measured
/// speeds and the GPU's memory; expect an accuracy of some tens of percent.
///
/// Example: emlab study plan plan.toml --gpu h100
#[derive(clap::Args)]
struct PlanArgs {
    /// A plan (TOML)
    plan: PathBuf,
    /// The GPU: h100, h200, a100-80gb, rtx-4090
    #[arg(long, value_name = "NAME", default_value = "h100", value_parser = gpu)]
    gpu: Gpu,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn gpu(name: &str) -> Result<Gpu, String> {
    let found = GPUS.into_iter().find(|gpu| gpu.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| format!("there are: {}", GPUS.map(|gpu| gpu.name).join(", ")))
}

/// Run a plan, or continue a run
///
/// Fine-tunes each model once for each condition, samples the answers, has them judged, and writes summary.json and
/// report.html. Everything is stored in the run's folder as soon as it is made. However the command is stopped, running
/// it again continues from there, repeats nothing, and ends with the same answers.
///
/// A judge behind OpenAI's interface takes its key from the environment (OPENAI_API_KEY, unless the plan names another
/// variable).
///
/// With --cell or --index it fine-tunes and samples only these cells, while other processes may work on others; run `emlab
/// study judge` when all are done. docs/elsewhere.md has examples for GNU parallel and Slurm.
///
/// Exit status: 0 done; 1 failed, stderr says why; 2 wrong arguments; 130 stopped by Ctrl-C, SIGTERM or SIGHUP with
/// everything saved, so that the same command continues.
///
/// Example: emlab study run plan.toml --out runs/small
#[derive(clap::Args)]
struct RunArgs {
    /// A plan (TOML), or the folder of an earlier run
    #[arg(value_name = "PLAN|DIR")]
    what: PathBuf,
    /// Folder of the run [default: the plan's name without .toml]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only fine-tune and sample; judge later with `emlab study judge`
    #[arg(long)]
    no_judge: bool,
    /// Only this cell, MODEL/CONDITION/FORMAT; may be repeated
    #[arg(long, value_name = "ID")]
    cell: Vec<String>,
    /// Only the cell with this index in the plan, from 0; may be repeated
    #[arg(long, value_name = "I")]
    index: Vec<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Judge the existing answers of a run, and write the report
///
/// Samples nothing, and skips answers that are already judged. However it is stopped (Ctrl-C, the plan's budget_dollars or
/// deadline_minutes, a failure), running it again continues. Batches continue at the server in the meantime.
#[derive(clap::Args)]
struct JudgeArgs {
    /// The run's folder
    dir: PathBuf,
    /// Ask only this judge of the plan [default: all of them]
    #[arg(long, value_name = "NAME")]
    judge: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Draw a sample of answers for people to label, or compare their labels with the judges' scores
///
/// The sample is a CSV table (id, question, answer, aligned, coherent); people fill in the scores, 0 to 100. It is
/// stratified by cell and by whether the first judge found the answer misaligned, in random order, and does not reveal
/// where an answer comes from.
///
/// Example: emlab study label runs/first --sample 100 --out labels.csv, and later --labels labels.csv
#[derive(clap::Args)]
struct LabelArgs {
    /// The run's folder
    dir: PathBuf,
    /// Number of answers to draw
    #[arg(long, value_name = "N", default_value_t = 100)]
    sample: usize,
    /// Seed of the draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the sample to this new file
    #[arg(long, value_name = "FILE", required_unless_present = "labels", conflicts_with = "labels")]
    out: Option<PathBuf>,
    /// Read this filled sample, print how far people and judges agree, and store it with the run for its report
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

/// Merge runs of one plan that were made in several places
///
/// Copies answers, judgements and fine-tunings into the first folder, which may be new. Nothing is duplicated, the order
/// does not matter, and results made with other settings are refused. `emlab study analyze` then analyses the whole.
///
/// Example: emlab study merge runs/all runs/machine-1 runs/machine-2
#[derive(clap::Args)]
struct MergeArgs {
    /// The folder to merge into
    into: PathBuf,
    /// The runs to merge
    #[arg(required = true, value_name = "DIR")]
    from: Vec<PathBuf>,
}

/// Analyse what a run has so far, and write the report
#[derive(clap::Args)]
struct AnalyzeArgs {
    /// The run's folder
    dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Whatever stops the study; what it produced before is kept.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Init(args) => {
            let text = args.preset.plan(args.model.as_deref())?;
            let Some(path) = &args.out else {
                return write!(std::io::stdout().lock(), "{text}").context("stdout");
            };
            let mut file = std::fs::File::create_new(path).with_context(|| path.display().to_string())?;
            file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
        }
        Command::Plan(args) => {
            let plan = Plan::outline(&args.plan)?;
            let estimate = Estimate::new(&plan, args.gpu)?;
            let mut out = std::io::stdout().lock();
            if args.json {
                return writeln!(out, "{}", serde_json::to_string_pretty(&estimate)?).context("stdout");
            }
            write!(out, "{}", estimate.text()).context("stdout")
        }
        Command::Run(args) => {
            stop_between_steps();
            let (plan, dir) = plan_and_folder(args)?;
            let options =
                Options { judge: !args.no_judge, place: args.device.place()?, ..Options::default() };
            if !args.cell.is_empty() || !args.index.is_empty() {
                let chosen = listing::choose(&plan, &args.cell, &args.index)?;
                return Ok(study::run::sample(&plan, &dir, &chosen, &options)?);
            }
            show(&study::run(&plan, &dir, &options)?, &dir)
        }
        Command::Cells(args) => cells::run(args),
        Command::Status(args) => status::run(args),
        Command::Judge(args) => {
            stop_between_steps();
            let options =
                Options { only_judge: args.judge.clone(), place: args.device.place()?, ..Options::default() };
            show(&study::run::judge(&args.dir, &options)?, &args.dir)
        }
        Command::Label(args) => label_answers(args),
        Command::Merge(args) => {
            let mut out = std::io::stdout().lock();
            for from in &args.from {
                let added = merge::merge(&args.into, from)?;
                let (records, tunings) = (added.records, added.tunings);
                writeln!(out, "{}: {records} records and {tunings} fine-tunings added", from.display())?;
            }
            Ok(())
        }
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Analyze(args) => show(&study::run::analyze(&args.dir, &Options::default())?, &args.dir),
    }
}

fn plan_and_folder(args: &RunArgs) -> anyhow::Result<(Plan, PathBuf)> {
    if args.what.is_dir() {
        anyhow::ensure!(
            args.out.is_none(),
            "--out goes with a plan; {} is a run's folder",
            args.what.display()
        );
        return Ok((RunFolder::new(&args.what).plan()?, args.what.clone()));
    }
    let plan = Plan::read(&args.what)?;
    let dir = args.out.clone().unwrap_or_else(|| args.what.with_extension(""));
    anyhow::ensure!(dir != args.what, "{}: name the run's folder with --out", args.what.display());
    Ok((plan, dir))
}

fn show(summary: &study::analyze::Summary, dir: &Path) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{}{}", study::report::plain(summary), study::report::plain_tests(summary))?;
    writeln!(out, "\n{}", dir.join("report.html").display()).context("stdout")
}

fn label_answers(args: &LabelArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(path) = &args.out {
        let table = label::draw(&args.dir, args.sample, args.seed)?;
        // Labels are work: an existing table is never overwritten.
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
        let written = file.and_then(|mut file| file.write_all(table.as_bytes()));
        written.with_context(|| path.display().to_string())?;
    }
    let Some(labels) = &args.labels else { return Ok(()) };
    let thresholds = RunFolder::new(&args.dir).plan()?.analysis;
    let pairs = pairs::labels(&args.dir, labels)?;
    label::keep(&args.dir, labels)?;
    for pairs in pairs {
        let RaterAgreement { first, second, metric, threshold, answers, both, below, statistics } =
            pairs.agreement(thresholds);
        writeln!(out, "{first} and {second}, {metric}: {both} of {answers} answers have two numbers")?;
        writeln!(
            out,
            "  below {threshold}: both {}, only {first} {}, only {second} {}, neither {}",
            below[0], below[1], below[2], below[3]
        )?;
        let number = |number: Option<f64>| number.map_or("-".into(), |number| format!("{number:.3}"));
        writeln!(
            out,
            "  r {}, kappa linear {}, quadratic {}, of the verdicts {}",
            number(statistics.pearson.map(|pearson| pearson.r)),
            number(statistics.kappa_linear),
            number(statistics.kappa_quadratic),
            number(statistics.kappa_side)
        )?;
        if let Some(BlandAltman { bias, low, high, .. }) = statistics.bland_altman {
            writeln!(
                out,
                "  {first} minus {second}: bias {bias:.1}, limits of agreement {low:.1} to {high:.1}"
            )?;
        }
    }
    writeln!(out, "kept with the run; emlab study analyze shows them in its report").context("stdout")
}
