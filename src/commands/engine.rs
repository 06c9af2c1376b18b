//! Arguments and helpers shared by the commands that run a model: which model, where, and how prompts are written.

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

/// From now on the first Ctrl-C, SIGTERM or SIGHUP stops long work after the current step, with everything saved; the
/// second stops at once. The exit status is 130, which tells a scheduler to requeue: the same command resumes.
pub fn stop_between_steps() {
    let stop = || {
        if interrupt::request() {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; once more stops at once");
    };
    // If no handler can be set, Ctrl-C stops at once, and a resumed run repeats a few steps.
    let _ = ctrlc::set_handler(stop);
}

/// The chats and texts in a file, or in the fetched data set of that name.
///
/// # Errors
/// Those of [`dataset::read`]; if the data set has not been fetched.
pub fn documents(path: &Path) -> emlab::Result<Vec<Document>> {
    let set = if path.exists() { None } else { DataSet::find(&path.to_string_lossy()) };
    dataset::read(&set.map_or_else(|| Ok(path.to_path_buf()), |set| set.locate())?)
}

/// Where to compute
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    /// The GPU if there is one, else the CPU
    Auto,
    /// The CPU, in f32 (the reference)
    Cpu,
    /// The GPU
    Cuda,
}

/// Number format on a GPU
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    /// bf16 storage, f32 accumulation
    Bf16,
    /// f32 throughout: slow, for comparison with the CPU
    F32,
}

/// Where the model computes
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto")]
    device: Choice,
    /// Number format on a GPU
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Precision,
}

impl DeviceArgs {
    /// Where to compute. Names the GPU on stderr if it is one.
    ///
    /// # Errors
    /// If a GPU was requested and none can be used.
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
    /// The model: a Hugging Face folder (config.json, tokenizer.json, safetensors), or the name of a fetched model
    #[arg(long, value_name = "DIR")]
    model: String,
    /// LoRA adapter to apply: a folder in PEFT format
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
    /// The model's name or folder, as given.
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

    /// Like [`open`](Self::open), but the adapter gets gradients.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
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

/// How a chat is rendered for the model
#[derive(clap::Args)]
pub struct ChatArgs {
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers, if its chat template supports it (Qwen 3)
    #[arg(long, value_enum, default_value = "off")]
    thinking: Switch,
}

impl ChatArgs {
    /// The messages that a conversation starts with.
    pub fn opening(&self) -> Vec<Message> {
        self.system.iter().map(|system| Message::new("system", system)).collect()
    }

    /// The tokens after which the model answers a user who says `text`.
    ///
    /// # Errors
    /// Those of [`prompt`](Self::prompt).
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

/// How answers are sampled
#[derive(clap::Args)]
pub struct SamplingArgs {
    /// Maximum number of new tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Flattens (> 1) or sharpens (< 1) the distribution; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// Sample only from the most likely tokens whose probabilities add up to P (nucleus sampling)
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Sample only from the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Random seed: the same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Text that ends the answer and is removed from it; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Force the answer to be one JSON object: tokens that cannot continue one are never sampled
    #[arg(long)]
    json_object: bool,
}

impl SamplingArgs {
    /// The sampling settings.
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_k: self.top_k, top_p: self.top_p }
    }

    /// The limits on an answer's length and form.
    pub fn limits(&self) -> Limits {
        let form = self.json_object.then_some(Form::JsonObject);
        Limits { max_tokens: self.max_tokens, stop: self.stop.clone(), form, ..Limits::default() }
    }
}
