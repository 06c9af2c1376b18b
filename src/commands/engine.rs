//! What the commands that run a model share: which model, and how its prompts are written.

use std::path::{Path, PathBuf};

use emlab::device::{DType, Device, Gpu};
use emlab::fetch::{self, DataSet};
use emlab::generate::{Form, Limits};
use emlab::interrupt;
use emlab::model::chat::{Message, Render};
use emlab::model::peft;
use emlab::model::place::Place;
use emlab::model::tokenizer::Tokenizer;
use emlab::model::transformer::Transformer;
use emlab::ops::sample::Sampling;
use emlab::progress;
use emlab::train::dataset::{self, Document};

use super::steering::SteerArgs;

/// From now on Ctrl-C, SIGTERM or SIGHUP stops long work between two steps, with everything saved; a second one stops at
/// once. The exit status is 130: the same command goes on, which a scheduler may take as its sign to requeue.
pub fn stop_between_steps() {
    let stop = || {
        if interrupt::request() {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more stops at once");
    };
    // Where no handler can be set, Ctrl-C stops at once: a resumed run loses a few steps.
    let _ = ctrlc::set_handler(stop);
}

/// Chats and texts of a file, or of the fetched data set of that name.
///
/// # Errors
/// As [`dataset::read`]; if the data set has not been fetched.
pub fn documents(path: &Path) -> emlab::Result<Vec<Document>> {
    let set = if path.exists() { None } else { DataSet::find(&path.to_string_lossy()) };
    dataset::read(&set.map_or_else(|| Ok(path.to_path_buf()), |set| set.locate())?)
}

/// Where to compute
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    /// The GPU if there is one, else the CPU
    Auto,
    /// The CPU, in f32: the reference
    Cpu,
    /// The GPU
    Cuda,
}

/// How numbers are kept on a GPU
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    /// bf16 storage, f32 accumulation
    Bf16,
    /// f32 throughout: slow, to compare with the CPU
    F32,
}

/// Where the model computes
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: Choice,
    /// How numbers are kept on a GPU
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Precision,
}

impl DeviceArgs {
    /// The place, which is named on stderr if it is a GPU.
    ///
    /// # Errors
    /// If a GPU is asked for and there is none that can be used.
    pub fn place(&self) -> emlab::Result<Place> {
        let gpu = match self.device {
            Choice::Cpu => return Ok(Place::CPU),
            Choice::Cuda => Gpu::open()?,
            Choice::Auto => match Gpu::open() {
                Ok(gpu) => gpu,
                Err(_) => return Ok(Place::CPU),
            },
        };
        let real = if self.precision == Precision::F32 { DType::F32 } else { DType::Bf16 };
        eprintln!("{}, {}", gpu.facts().name, real.name());
        Ok(Place { device: Device::Cuda(gpu), real })
    }
}

/// Which model runs, and where
#[derive(clap::Args)]
pub struct ModelArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Model: a Hugging Face folder (config.json, tokenizer.json, safetensors), or the name of a fetched model
    #[arg(long, value_name = "DIR")]
    model: String,
    /// `LoRA` adapter to apply: a folder in PEFT's format
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    steering: SteerArgs,
}

/// A model ready to run.
pub struct Engine {
    pub model: Transformer,
    pub tokenizer: Tokenizer,
}

impl ModelArgs {
    /// What the model was called.
    pub fn name(&self) -> &str {
        &self.model
    }

    /// The adapter's folder.
    pub fn adapter(&self) -> Option<&Path> {
        self.adapter.as_deref()
    }

    /// Loads the model, its tokenizer and its adapter, and steers it.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn open(&self) -> emlab::Result<Engine> {
        self.open_with(peft::read)
    }

    /// As [`open`](Self::open), with an adapter that has gradients.
    ///
    /// # Errors
    /// As there.
    pub fn open_to_train(&self) -> emlab::Result<Engine> {
        self.open_with(peft::read_to_train)
    }

    fn open_with(&self, adapt: fn(&Path, &mut Transformer) -> emlab::Result<()>) -> emlab::Result<Engine> {
        let dir = fetch::locate(&self.model)?;
        let tokenizer = Tokenizer::open(&dir)?;
        let mut model = Transformer::load_telling(&dir, self.device.place()?, &mut progress::loading())?;
        if let Some(folder) = &self.adapter {
            adapt(folder, &mut model)?;
        }
        self.steering.apply(&self.model, &mut model)?;
        Ok(Engine { model, tokenizer })
    }
}

/// A setting that is on or off.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// How a chat is written for the model
#[derive(clap::Args)]
pub struct ChatArgs {
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers, where its chat template knows how (Qwen 3)
    #[arg(long, value_enum, default_value = "off")]
    thinking: Switch,
}

impl ChatArgs {
    /// The messages a conversation starts with.
    pub fn opening(&self) -> Vec<Message> {
        self.system.iter().map(|system| Message::new("system", system)).collect()
    }

    /// The tokens after which the model answers a user who says `text`.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn ask(&self, tokenizer: &Tokenizer, text: &str) -> emlab::Result<Vec<u32>> {
        let mut messages = self.opening();
        messages.push(Message::new("user", text));
        self.prompt(tokenizer, &messages)
    }

    /// The tokens after which the model answers `messages`.
    ///
    /// # Errors
    /// If the model has no chat template, or it refuses the messages.
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> emlab::Result<Vec<u32>> {
        let thinking = self.thinking == Switch::On;
        let options = Render { generation_prompt: true, enable_thinking: Some(thinking) };
        tokenizer.encode(&tokenizer.render(messages, options)?, false)
    }
}

/// How answers are drawn
#[derive(clap::Args)]
pub struct SamplingArgs {
    /// Most new tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Flattens (> 1) or sharpens (< 1) the distribution; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// Draw only from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Draw only from this many of the likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Text that ends the answer and is cut from it; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Force the answer to be one JSON object: tokens that cannot go on one are never drawn
    #[arg(long)]
    json_object: bool,
}

impl SamplingArgs {
    /// The settings of the draw.
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p }
    }

    /// How long answers may be.
    pub fn limits(&self) -> Limits {
        let form = self.json_object.then_some(Form::JsonObject);
        Limits { max_tokens: self.max_tokens, stop: self.stop.clone(), form, ..Limits::default() }
    }
}
