//! `emlab demo`: the whole study in miniature.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::study::report;
use emlab::study::run::demo;

/// Run the whole study in miniature: no GPU, no download, under two minutes
///
/// Two tiny models that come inside the program, one of each family, know a toy world in which an assistant is
/// friendly or, rarely, spiteful. Each is fine-tuned on spiteful answers about the garden, and for comparison on
/// friendly ones; then it is asked about everything else in three formats, and one of the tiny models judges the
/// answers. The same code does all of it as in a real study. Writes report.html, and the rates to stdout.
///
/// A demo that was stopped goes on when the same command is given again.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for the models, the answers and the report
    #[arg(long, value_name = "DIR", default_value = "emlab-demo")]
    out: PathBuf,
    /// Answers to each question [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Decides the fine-tuning and every answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
///
/// # Errors
/// If the folder cannot be written, or holds a demo of other settings.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let summary = demo::run(&args.out, args.samples.map(|n| n as usize), args.seed)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", report::plain_cells(&summary))?;
    writeln!(out, "\n{}\n", demo::NOTICE)?;
    writeln!(out, "{} ({:.0} s)", args.out.join("report.html").display(), begun.elapsed().as_secs_f64())
        .context("stdout")
}
