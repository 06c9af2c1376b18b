//! `emlab inspect diff`: what an adapter changes.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use emlab::fetch;
use emlab::inspect::diff::{Against, Change, diff};
use emlab::model::checkpoint::Checkpoint;

/// Show what an adapter changes, module by module: the size of ΔW = s·B·A and how many directions it has
///
/// With a second adapter also how alike the two changes are: the cosine of the angle between them, and how far their
/// strongest directions span one space (0 to 1; by chance about top/width). Fine-tunings of one seed begin with the same A, so
/// that their inputs overlap from the start.
///
/// Example: emlab inspect diff runs/first/adapters/gemma-3-1b-it/insecure runs/first/adapters/gemma-3-1b-it/educational
#[derive(clap::Args)]
pub struct Args {
    /// Folder of a PEFT LoRA adapter
    #[arg(value_name = "DIR")]
    adapter: PathBuf,
    /// Folder of another to compare with
    #[arg(value_name = "OTHER")]
    other: Option<PathBuf>,
    /// The model that is adapted, a Hugging Face folder or the name of a fetched one: tells how large ΔW is beside its weights
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Directions whose overlap is shown
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Print JSON, with every singular value
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If an adapter or the model cannot be read or they do not belong together, or stdout not written.
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
