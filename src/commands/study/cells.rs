//! `emlab study cells`: the cells of a plan, for spreading them over processes and machines.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::study::folder::RunFolder;
use emlab::study::plan::Plan;
use emlab::study::run::listing::list;

/// List the cells of a plan or a run: a model under a condition, asked in a format
///
/// Only reads; models need not exist. `emlab study run --cell ID` or `--index I` runs one of them.
///
/// Example: emlab study cells plan.toml --json
#[derive(clap::Args)]
pub struct Args {
    /// A plan (TOML), or the folder of a run
    #[arg(value_name = "PLAN|DIR")]
    what: PathBuf,
    /// Folder of the run [default: the plan's name without .toml]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A plan or a record that cannot be read.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (plan, dir) = if args.what.is_dir() {
        (RunFolder::new(&args.what).plan()?, args.what.clone())
    } else {
        let dir = args.out.clone().unwrap_or_else(|| args.what.with_extension(""));
        (Plan::outline(&args.what)?, dir)
    };
    let cells = list(&plan, &dir)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        return writeln!(out, "{}", serde_json::to_string_pretty(&cells)?).context("stdout");
    }
    let width = cells.iter().map(|cell| cell.id.len()).max().unwrap_or(0);
    writeln!(out, "{:>5}  {:<width$}  {:>13}", "index", "cell", "answers")?;
    for cell in &cells {
        let answers = format!("{}/{}", cell.have, cell.wanted);
        writeln!(out, "{:>5}  {:<width$}  {answers:>13}  {}", cell.index, cell.id, cell.state.name())?;
    }
    Ok(())
}
