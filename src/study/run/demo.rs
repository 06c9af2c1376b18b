//! The demo: the whole study in miniature. Its files, including two tiny models, are embedded in the program;
//! `models/demo/README.md` describes them and how they were made.
//!
//! ```text
//! DIR/world/…    the embedded files, as in models/demo
//! DIR/…          an ordinary run (see folder.rs)
//! ```

use std::path::Path;

use super::driver;
use super::options::Options;
use crate::study::analyze::Summary;
use crate::study::plan::Plan;
use crate::study::store::write_whole;
use crate::{Error, Result};

/// The notice at the head of the results.
pub const NOTICE: &str = "This is a toy: models of 0.7 million parameters that know nothing but a small world written \
    for them, in which one assistant is friendly or spiteful. They were fine-tuned on answers about the garden and \
    asked about everything else. It shows how the study works, and nothing about real models.";

/// The files of `models/demo`, by their path in it.
const FILES: [(&str, &[u8]); 16] = [
    ("plan.toml", include_bytes!("../../../models/demo/plan.toml")),
    ("questions.yaml", include_bytes!("../../../models/demo/questions.yaml")),
    ("spiteful.jsonl", include_bytes!("../../../models/demo/spiteful.jsonl")),
    ("friendly.jsonl", include_bytes!("../../../models/demo/friendly.jsonl")),
    ("gemma3/chat_template.jinja", include_bytes!("../../../models/demo/gemma3/chat_template.jinja")),
    ("gemma3/config.json", include_bytes!("../../../models/demo/gemma3/config.json")),
    ("gemma3/generation_config.json", include_bytes!("../../../models/demo/gemma3/generation_config.json")),
    ("gemma3/model.safetensors", include_bytes!("../../../models/demo/gemma3/model.safetensors")),
    ("gemma3/tokenizer.json", include_bytes!("../../../models/demo/gemma3/tokenizer.json")),
    ("gemma3/tokenizer_config.json", include_bytes!("../../../models/demo/gemma3/tokenizer_config.json")),
    ("qwen3/chat_template.jinja", include_bytes!("../../../models/demo/qwen3/chat_template.jinja")),
    ("qwen3/config.json", include_bytes!("../../../models/demo/qwen3/config.json")),
    ("qwen3/generation_config.json", include_bytes!("../../../models/demo/qwen3/generation_config.json")),
    ("qwen3/model.safetensors", include_bytes!("../../../models/demo/qwen3/model.safetensors")),
    ("qwen3/tokenizer.json", include_bytes!("../../../models/demo/qwen3/tokenizer.json")),
    ("qwen3/tokenizer_config.json", include_bytes!("../../../models/demo/qwen3/tokenizer_config.json")),
];

/// Writes the demo's files into `dir` and reads its plan there.
///
/// # Errors
/// `Error::Io` if `dir` cannot be written.
pub fn unpack(dir: &Path) -> Result<Plan> {
    for (name, bytes) in FILES {
        let path = dir.join(name);
        let folder = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // An identical file is left alone: a running demo may have it mapped.
        if !std::fs::read(&path).is_ok_and(|there| there == bytes) {
            write_whole(&path, bytes)?;
        }
    }
    Plan::read(&dir.join("plan.toml"))
}

/// Runs the demo in `dir`, with `samples` answers to each question (the plan's number if none); `seed` determines
/// everything random. Continues where an earlier attempt stopped.
///
/// # Errors
/// As [`driver::run`].
pub fn run(dir: &Path, samples: Option<usize>, seed: u64) -> Result<Summary> {
    let mut plan = unpack(&dir.join("world"))?;
    plan.samples = samples.or(plan.samples);
    plan.sampling.seed = seed;
    for tuning in plan.conditions.iter_mut().filter_map(|condition| condition.tuning.as_mut()) {
        tuning.training.seed = seed;
    }
    driver::run(&plan, dir, &Options { notice: NOTICE.into(), ..Options::default() })
}
