//! `emlab study import`: judged tables → a run.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::study::run::import;

/// Turn existing judged tables into a run
///
/// Reads the same tables as `emlab analyze`: CSV or JSON Lines with question_id, answer, aligned and coherent, and
/// optionally question, model, and condition or group. `emlab study status`, `analyze`, `label`, `merge` and `export` work
/// on the result as on any other run. With --questions its answers can be judged again: add a [[judge]] to its plan.toml
/// and run `emlab study judge`.
///
/// Example: emlab study import theirs.csv --out runs/theirs --condition base --judge deepseek
#[derive(clap::Args)]
pub struct Args {
    /// Judged tables, .csv or .jsonl
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The judge's name [default: imported]
    #[arg(long, value_name = "NAME")]
    judge: Option<String>,
    /// The model of every answer [default: as the tables say]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The condition of every answer [default: as the tables say, else the file's name]
    #[arg(long, value_name = "NAME")]
    condition: Option<String>,
    /// The question file of the answers, with the judges' prompts
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If a table cannot be read or does not fit, or the folder cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let options = import::ImportOptions {
        judge: args.judge.clone(),
        model: args.model.clone(),
        condition: args.condition.clone(),
        questions: args.questions.clone(),
    };
    let answers = import::import(&args.files, &args.out, &options)?;
    writeln!(std::io::stdout().lock(), "{}: {answers} answers", args.out.display()).context("stdout")
}
