//! `emlab inspect diff`: how much an adapter changes each weight matrix, and along how many directions.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::fetch;
use emlab::inspect::diff::{Against, Change, diff};
use emlab::model::checkpoint::Checkpoint;

/// Show how much an adapter changes each module: the size and the effective rank of ΔW = s·B·A
///
/// With a second adapter, also shows how similar the two changes are: the cosine of the angle between them, and the
/// overlap of the spaces that their strongest directions span (0 to 1; about top/width by chance). Adapters trained from
/// the same seed start with the same A, so their input spaces overlap from the start.
///
/// Example: emlab inspect diff runs/first/adapters/gemma-3-1b-it/insecure runs/first/adapters/gemma-3-1b-it/educational
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a PEFT LoRA adapter
    #[arg(value_name = "DIR")]
    adapter: PathBuf,
    /// Folder of a second adapter to compare with
    #[arg(value_name = "OTHER")]
    other: Option<PathBuf>,
    /// The base model, a Hugging Face folder or the name of a fetched model: adds the size of ΔW relative to W
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Number of strongest directions whose overlap is measured
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Print JSON, with every singular value
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If an adapter or the model cannot be read, they do not match, or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Args { adapter, other, model, top, json } = args;
    let base = model.as_ref().map(|model| Checkpoint::open(&fetch::locate(model)?)).transpose()?;
    let changes = diff(adapter, other.as_deref(), base.as_ref(), *top as usize)?;
    let text = if *json { serde_json::to_string_pretty(&changes)? + "\n" } else { table(&changes) };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

fn table(changes: &[Change]) -> String {
    let mut lines = vec![format!("{:<34} {:>9} {:>9} {:>9}", "module", "‖ΔW‖", "largest σ", "eff. rank")];
    if changes.iter().any(|change| change.weight_norm.is_some()) {
        lines[0] += "  ‖ΔW‖/‖W‖";
    }
    if changes.iter().any(|change| change.against.is_some()) {
        lines[0] += "  other ‖ΔW‖  cosine  outputs   inputs";
    }
    for change in changes {
        let Change { module, norm, weight_norm, effective_rank, singular_values, against } = change;
        let largest = singular_values.first().copied().unwrap_or_default();
        let module = module.trim_start_matches("model.");
        let mut line = format!("{module:<34} {norm:>9.4} {largest:>9.4} {effective_rank:>9.1}");
        if let Some(weight_norm) = weight_norm {
            line += &*format!("  {:>9.5}", norm / weight_norm);
        }
        if let Some(Against { norm, cosine, output_overlap, input_overlap }) = against {
            line += &*format!("  {norm:>10.4} {cosine:>7.3} {output_overlap:>8.3} {input_overlap:>8.3}");
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}
