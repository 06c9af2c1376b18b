//! `emlab study export`: a run as a table or a data set.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::study::run::export;

/// Write a run's answers and judgements as a CSV table or a Hugging Face data set
///
/// The table has one line per answer and judge; text that a spreadsheet would take for a formula is escaped. The data set
/// is a folder with a card (README.md), which `datasets.load_dataset` reads and the hub displays; nothing is uploaded.
/// Only reads the run, so it can be used while the run is in progress.
///
/// Example: emlab study export runs/first --csv answers.csv --dataset first-dataset
#[derive(clap::Args)]
pub struct Args {
    /// The run's folder
    dir: PathBuf,
    /// Write this table
    #[arg(long, value_name = "FILE", required_unless_present = "dataset")]
    csv: Option<PathBuf>,
    /// Write a data set into this new folder
    #[arg(long, value_name = "DIR")]
    dataset: Option<PathBuf>,
    /// The data set's licence, as an identifier of the hub
    #[arg(long, value_name = "ID", default_value = "other", requires = "dataset")]
    license: String,
}

/// Runs the command.
///
/// # Errors
/// If the run cannot be read or the files cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(path) = &args.csv {
        let lines = export::table(&args.dir, path)?;
        writeln!(out, "{}: {lines} lines", path.display()).context("stdout")?;
    }
    if let Some(folder) = &args.dataset {
        let [answers, judgements] = export::dataset(&args.dir, folder, &args.license)?;
        writeln!(out, "{}: {answers} answers, {judgements} judgements", folder.display())
            .context("stdout")?;
    }
    Ok(())
}
