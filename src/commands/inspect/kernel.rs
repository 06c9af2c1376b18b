//! `emlab inspect kernel`: a kernel as a page of a textbook.

mod layout;
mod page;

use std::io::Write;

use anyhow::Context;
use emlab::device::gpu::Facts;
use emlab::device::{Gpu, compile};
use emlab::inspect::kernel::resources::Resources;
use emlab::inspect::kernel::{Line, all, find};
use emlab::model::cards::{self, Card};
use emlab::{Error, Result};
use serde_json::json;

/// Explain a kernel: its maths, the CPU definition beside the CUDA source, registers, shared memory, measured times
///
/// Without a name, lists all kernels. Registers and shared memory come from compiling with NVRTC for --arch, with the
/// sizes of --model as constants; no GPU is needed. Times come from benches/results, for --model if it was measured.
///
/// Example: emlab inspect kernel norm_add_forward --model gemma-3-4b-it
#[derive(clap::Args)]
pub struct Args {
    /// A file in kernels/ without .cu, or a function in one
    name: Option<String>,
    /// Architecture to compile for: sm_80, sm_86, sm_89, sm_90a, sm_100a or sm_120a
    ///
    /// Defaults to this machine's GPU, or to sm_90a if it has none.
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// The model whose sizes are compiled in as constants
    #[arg(long, value_name = "NAME", default_value = "qwen3-8b")]
    model: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If there is no such kernel, architecture or model, a kernel does not compile, or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Args { name, arch, model, json } = args;
    let (facts, card) = (facts(arch.as_deref())?, card(model)?);
    let text = match name {
        None if *json => serde_json::to_string_pretty(&all())? + "\n",
        None => list(&all()),
        Some(name) => {
            let kernel = find(name)?;
            let (page, spec) = (kernel.page(&card.name), card.spec()?);
            let compiled = Compiled {
                arch: compile::architecture(facts.capability),
                card: facts.name.clone(),
                model: card.name,
                nvrtc: compile::nvrtc_version(),
                functions: match compile::nvrtc_version() {
                    Some(_) => kernel.resources(&spec, &facts)?,
                    None => Vec::new(),
                },
            };
            if *json {
                let Compiled { arch, card, model, nvrtc, functions } = compiled;
                let nvrtc = nvrtc.map(|(major, minor)| format!("{major}.{minor}"));
                let compiled = json!({
                    "arch": arch, "card": card, "model": model, "nvrtc": nvrtc, "functions": functions,
                });
                serde_json::to_string_pretty(&json!({"page": page, "compiled": compiled}))? + "\n"
            } else {
                page::text(&page, &compiled, layout::terminal())
            }
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("stdout")
}

/// What the compiler reports, and what it compiled for.
struct Compiled {
    arch: String,
    /// Name of the card whose properties determine the constants.
    card: String,
    model: String,
    /// The version of NVRTC; none if it was not found.
    nvrtc: Option<(i32, i32)>,
    functions: Vec<Resources>,
}

fn facts(arch: Option<&str>) -> Result<Facts> {
    let here = Gpu::open().ok().map(|gpu| gpu.facts().clone());
    let Some(name) = arch else {
        let hopper = || Facts::typical().into_iter().find(Facts::is_hopper);
        return here.or_else(hopper).ok_or_else(|| Error::Setting("no architecture to compile for".into()));
    };
    let capability = compile::capability(name);
    let known = here.into_iter().chain(Facts::typical());
    known.into_iter().find(|facts| Some(facts.capability) == capability).ok_or_else(|| {
        let known = Facts::typical().map(|facts| compile::architecture(facts.capability)).join(", ");
        Error::Setting(format!("kernels are not made for `{name}`: --arch is one of {known}"))
    })
}

fn card(name: &str) -> Result<Card> {
    cards::find(name).ok_or_else(|| {
        let known: Vec<String> = cards::all().into_iter().map(|card| card.name).collect();
        Error::Setting(format!("no model `{name}`: --model is one of {}", known.join(", ")))
    })
}

fn list(lines: &[Line]) -> String {
    let width = layout::terminal();
    let mut text = String::new();
    for Line { name, what, functions } in lines {
        for line in layout::wrap(&format!("{name:<20}  {what}"), width) {
            text += &(line + "\n");
        }
        for line in layout::wrap(&format!("{:<20}  {}", "", functions.join("  ")), width) {
            text += &(line + "\n");
        }
    }
    text
}
