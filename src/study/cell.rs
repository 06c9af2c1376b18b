//! Cells, the units of a study: one model under one condition, asked in one format.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::format::Format;
use super::judge::settings::Kind;
use super::plan::{Condition, Model, Plan, Tuning};
use super::questions::Question;
use super::steering::Steering;
use super::store::{self, Record};
use crate::device::philox::Key;
use crate::generate::Finish;
use crate::{Error, Result};

/// One model under one condition, asked in one format.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    /// The model.
    pub model: &'a Model,
    /// The condition.
    pub condition: &'a Condition,
    /// The condition whose fine-tuning answers: the same, unless it is like another.
    pub tuned: &'a Condition,
    /// The format.
    pub format: Format,
    /// The questions of that format.
    pub questions: Vec<&'a Question>,
}

/// One answer, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The cell: "model/condition/format".
    pub cell: String,
    /// The question's id.
    pub question: String,
    /// The answer's number among the question's.
    pub sample: usize,
    /// What the model wrote, without special tokens.
    pub answer: String,
    /// How many tokens it wrote; none if not known, as of an answer from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Why it stopped; none if not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
}

impl Record for Answer {
    /// Question and sample; a ledger holds one cell.
    type Key = (String, usize);
    fn key(&self) -> Self::Key {
        (self.question.clone(), self.sample)
    }
}

impl<'a> Cell<'a> {
    /// "model/condition/format": its name in records, and the folder of its ledgers.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.model.name, self.condition.name, self.format.name())
    }

    /// Every answer that the plan wants: a question and the answer's number.
    pub fn samples<'b>(&'b self, plan: &'b Plan) -> impl Iterator<Item = (&'a Question, usize)> + 'b {
        self.questions.iter().flat_map(|question| {
            let n = plan.samples.unwrap_or(question.samples_per_paraphrase) * question.paraphrases.len();
            (0..n).map(move |sample| (*question, sample))
        })
    }

    /// The stream of random numbers that decides one answer.
    pub fn key(&self, seed: u64, question: &str, sample: usize) -> Key {
        Key::new(seed, &[&self.id(), question, &sample.to_string()])
    }
}

/// The cells of a plan, in its order: models, then conditions, then formats.
///
/// # Errors
/// `Error::Setting` if there are none.
pub fn cells<'a>(plan: &'a Plan, questions: &'a [Question]) -> Result<Vec<Cell<'a>>> {
    let mut cells = Vec::new();
    for model in &plan.models {
        for condition in &plan.conditions {
            let like = |other: &&Condition| condition.like.as_ref() == Some(&other.name);
            let tuned = plan.conditions.iter().find(like).unwrap_or(condition);
            for &format in &plan.formats {
                let questions: Vec<_> = questions.iter().filter(|q| q.format() == format).collect();
                if !questions.is_empty() {
                    cells.push(Cell { model, condition, tuned, format, questions });
                }
            }
        }
    }
    if cells.is_empty() {
        let formats: Vec<_> = plan.formats.iter().map(|format| format.name()).collect();
        let what = format!(
            "{}: no question has a format of the plan ({})",
            plan.questions.display(),
            formats.join(", ")
        );
        return Err(Error::Setting(what));
    }
    Ok(cells)
}

/// What a fine-tuned model depends on; null for a model as it is.
///
/// # Errors
/// `Error::Io` if the training data cannot be read.
pub fn tuning_configuration(tuning: Option<&Tuning>) -> Result<Value> {
    let Some(Tuning { data, examples, training }) = tuning else { return Ok(Value::Null) };
    let bytes = std::fs::read(data).map_err(Error::io(data))?;
    let mut training = json!(training);
    if let Some(settings) = training.as_object_mut() {
        // These change memory, speed and what is measured on the way, but not the weights.
        for name in ["pack_tokens", "checkpoint_steps", "evaluate_steps"] {
            settings.remove(name);
        }
    }
    Ok(json!({"data_sha256": store::sha256(&bytes), "examples": examples, "training": training}))
}

/// What answers depend on of their condition: the fine-tuning, whose [`tuning_configuration`] is `tuning`, and what steers.
///
/// # Errors
/// `Error::Io` if the directions cannot be read.
pub fn condition_configuration(tuning: &Value, steer: Option<&Steering>) -> Result<Value> {
    let mut condition = tuning.clone();
    if let Some(steer) = steer {
        condition["steering"] = steer.configuration()?;
    }
    Ok(condition)
}

/// What a cell's answers depend on, apart from how many there are. `model` is the checkpoint's [`fingerprint`]; none if
/// the answers were imported. `condition` is the [`condition_configuration`].
pub fn answers_configuration(plan: &Plan, cell: &Cell, model: Option<&str>, condition: &Value) -> Value {
    let question = |q: &&Question| (q.id.clone(), json!({"system": q.system, "paraphrases": q.paraphrases}));
    let questions: serde_json::Map<_, _> = cell.questions.iter().map(question).collect();
    let Some(model) = model else {
        return json!({"cell": cell.id(), "imported": plan.imported, "questions": questions});
    };
    let mut sampling = json!(plan.sampling);
    if let Some(settings) = sampling.as_object_mut() {
        settings.remove("batch");
    }
    json!({
        "cell": cell.id(),
        "model": model,
        "condition": condition,
        "sampling": sampling,
        "questions": questions,
    })
}

/// What a cell's judgements depend on: the judge, its prompts, and how the answers were made.
/// `fingerprint` is that of a local judge.
pub fn judgements_configuration(
    judge: &Kind,
    fingerprint: Option<&str>,
    cell: &Cell,
    answers: &Value,
) -> Value {
    let judge = match judge {
        Kind::OpenAi(judge) => json!({
            "model": judge.model,
            "url": judge.url,
            "top_logprobs": judge.top_logprobs,
            "seed": judge.seed,
        }),
        Kind::Local(judge) => json!({"model": fingerprint, "thinking": judge.thinking}),
        Kind::Imported(judge) => json!({"imported": judge}),
    };
    let prompts: serde_json::Map<_, _> =
        cell.questions.iter().map(|q| (q.id.clone(), json!(q.judge_prompts))).collect();
    json!({"judge": judge, "prompts": prompts, "answers_sha256": store::sha256_json(answers)})
}

/// Bytes read in one place of a large file.
const CHUNK: u64 = 16 << 10;
/// Places of a large file that are read.
const CHUNKS: u64 = 256;

/// Names a checkpoint by its content: SHA-256 over config.json, tokenizer.json and the safetensors files: whole up to
/// 4 MiB, beyond that their lengths and 256 evenly spaced pieces, so that tens of gigabytes take no time. Any
/// training changes every piece; a flipped bit between pieces goes unseen.
///
/// # Errors
/// `Error::Io` if a file cannot be read.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") || name == "config.json" || name == "tokenizer.json" {
            names.push(name);
        }
    }
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let path = folder.join(&name);
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(&name);
        hash_file(&mut hash, &path).map_err(Error::io(&path))?;
    }
    Ok(store::hex(&hash.finalize()))
}

fn hash_file(hash: &mut Sha256, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    hash.update(length.to_le_bytes());
    if length <= CHUNK * CHUNKS {
        std::io::copy(&mut file, hash)?;
        return Ok(());
    }
    let mut chunk = vec![0; CHUNK as usize];
    for i in 0..CHUNKS {
        // The last piece ends the file.
        file.seek(SeekFrom::Start(i * (length - CHUNK) / (CHUNKS - 1)))?;
        file.read_exact(&mut chunk)?;
        hash.update(&chunk);
    }
    Ok(())
}
