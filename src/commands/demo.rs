//! `emlab demo`: the whole study in miniature.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::study::report;
use emlab::study::run::demo;

/// Run the whole study in miniature: no GPU, no download, under two minutes
///
/// Two tiny models, one of each family, are built into the program. They know a toy world in which an assistant is
/// friendly or, rarely, spiteful. Each is fine-tuned on spiteful answers about gardening and, as a control, on friendly
/// ones. It is then asked about other things in three formats, and one of the tiny models judges the answers. A real
/// study runs the same code. Writes report.html, and prints the rates.
///
/// To resume an interrupted demo, run the same command again.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for the models, the answers and the report
    #[arg(long, value_name = "DIR", default_value = "emlab-demo")]
    out: PathBuf,
    /// Answers sampled per question [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Random seed of the fine-tuning and of every answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Runs the command.
///
/// # Errors
/// If the folder cannot be written, or holds a demo with other settings.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let summary = demo::run(&args.out, args.samples.map(|n| n as usize), args.seed)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", report::plain_cells(&summary))?;
    writeln!(out, "\n{}\n", demo::NOTICE)?;
    writeln!(out, "{} ({:.0} s)", args.out.join("report.html").display(), begun.elapsed().as_secs_f64())
        .context("stdout")
}
