//! `emlab info`: the build, the machine it runs on, and what a model folder contains.

use std::io::Write;
use std::path::Path;

use emlab::device::gpu::Facts;
use emlab::device::{Gpu, compile};
use emlab::fetch::{Hub, locate};
use emlab::model::checkpoint::Checkpoint;
use emlab::model::tokenizer::Tokenizer;
use serde_json::{Map, Value};

/// Show the version, this machine's CPU and GPU, and what a model contains
///
/// With a model, its folder is checked: the configuration, the presence and shape of every tensor, the tokenizer and
/// the chat template. Weights are not read.
///
/// Example: emlab info models/demo/qwen3
#[derive(clap::Args)]
pub struct Args {
    /// A model folder, or the name of a fetched model
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes the facts to stdout.
///
/// # Errors
/// If the model cannot be opened or stdout cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut facts = machine()?;
    if let Some(name) = &args.model {
        let folder = locate(name)?;
        facts.extend(model(&folder)?);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", Value::Object(facts))?;
        return Ok(());
    }
    for (name, value) in &facts {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(out, "{name:<15} {text}")?;
    }
    Ok(())
}

fn machine() -> anyhow::Result<Map<String, Value>> {
    let gpu = match Gpu::open() {
        Ok(gpu) => {
            let Facts { name, capability: (major, minor), multiprocessors, memory, driver, .. } = gpu.facts();
            let gib = *memory as f64 / f64::from(1 << 30);
            let sm = format!("compute capability {major}.{minor}, {multiprocessors} multiprocessors");
            format!("{name}, {gib:.1} GiB, {sm}, driver for CUDA {}.{}", driver.0, driver.1)
        }
        Err(why) => format!("none: {why}"),
    };
    let nvrtc = compile::nvrtc_version().map_or("none".into(), |(major, minor)| format!("{major}.{minor}"));
    Ok(facts([
        ("emlab", env!("CARGO_PKG_VERSION").into()),
        ("cpu", format!("{} {}", std::env::consts::ARCH, cpu_features().join(" ")).trim_end().into()),
        ("threads", rayon::current_num_threads().into()),
        ("gpu", gpu.into()),
        ("nvrtc", nvrtc.into()),
        ("model cache", Hub::from_env()?.cache().display().to_string().into()),
    ]))
}

/// The instruction sets that determine the speed of matrix products.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features: [(&str, bool); 0] = [];
    features.into_iter().filter_map(|(name, here)| here.then_some(name)).collect()
}

fn model(folder: &Path) -> anyhow::Result<Map<String, Value>> {
    let checkpoint = Checkpoint::open(folder)?;
    let tokenizer = Tokenizer::open(folder)?;
    let (spec, parameters) = (checkpoint.spec(), checkpoint.spec().parameters());
    let gib = |bytes: usize| format!("{:.2} GiB", (parameters * bytes) as f64 / f64::from(1 << 30));
    let full = spec.windows.iter().filter(|window| window.is_none()).count();
    let windows = match spec.windows.iter().find_map(|window| *window) {
        Some(window) => format!("{window} tokens in {} of {} layers", spec.layers - full, spec.layers),
        None => "none".to_owned(),
    };
    let head = if spec.tied { "tied to the embedding" } else { "its own" };
    let template = if tokenizer.has_chat_template() { "yes" } else { "no" };
    let token = |id: u32| format!("{id} {}", tokenizer.token(id).unwrap_or_default());
    Ok(facts([
        ("model", folder.display().to_string().into()),
        ("family", spec.family.name().into()),
        ("parameters", parameters.into()),
        ("weights as bf16", gib(2).into()),
        ("weights as f32", gib(4).into()),
        ("layers", spec.layers.into()),
        ("channels", spec.channels.into()),
        (
            "heads",
            format!("{} query, {} key/value, {} wide", spec.heads, spec.kv_heads, spec.head_dim).into(),
        ),
        ("mlp width", spec.mlp_width.into()),
        ("vocabulary", spec.vocab.into()),
        ("context", spec.context.into()),
        ("window", windows.into()),
        ("head", head.into()),
        ("tokens", tokenizer.len().into()),
        ("first token", tokenizer.bos().map_or_else(|| "none".to_owned(), token).into()),
        ("end of text", spec.eos.iter().map(|&id| token(id)).collect::<Vec<_>>().join(", ").into()),
        ("chat template", template.into()),
    ]))
}

fn facts<const N: usize>(facts: [(&str, Value); N]) -> Map<String, Value> {
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
