//! What a fine-tuning, answers and judgements are made under: the settings and hashes on which their bytes depend.
//!
//! The JSON form of each stands in the manifest beside what was made ([`store::manifest`]).
//! Its fields, and their order, are part of the layout of a run: a run that was made before must still be accepted.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cell::Cell;
use super::conditions::Tuning;
use super::judges::{Judge, JudgeKind};
use super::settings::{Model, Origin, Plan};
use super::steering::Steering;
use crate::model::spec::Spec;
use crate::study::store;
use crate::{Error, Result};

/// A cell with what it is made under.
#[derive(Clone, Debug)]
pub struct PlannedCell<'a> {
    /// Model, condition, format and questions.
    pub cell: Cell<'a>,
    /// What its fine-tuning is made under.
    pub tuning: TuningMadeUnder,
    /// What its answers are made under, apart from how many there are.
    pub answers: AnswersMadeUnder,
    /// What its judgements are made under, by judge in the plan's order.
    pub judgements: Vec<JudgementsMadeUnder>,
}

/// What a fine-tuned model depends on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuningMadeUnder {
    /// The checkpoint's [`fingerprint`](store::fingerprint()); none if its answers were imported.
    model: Option<String>,
    /// None for the model as it is.
    condition: Option<TrainedOn>,
}

/// Data and settings of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TrainedOn {
    data_sha256: String,
    examples: Option<usize>,
    /// The settings that change the weights.
    training: Value,
}

/// What a cell's answers depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnswersMadeUnder {
    /// They were sampled here.
    Sampled {
        /// "model/condition/format".
        cell: String,
        /// The checkpoint's [`fingerprint`](store::fingerprint()).
        model: String,
        /// What was done to it; none for the model as it is.
        condition: Option<Box<ConditionMadeUnder>>,
        /// How they were drawn.
        sampling: Value,
        /// By id: system prompt and wordings.
        questions: Map<String, Value>,
    },
    /// They came from tables.
    Imported {
        /// "model/condition/format".
        cell: String,
        /// The tables.
        imported: Vec<Origin>,
        /// By id: system prompt and wordings.
        questions: Map<String, Value>,
    },
}

/// What is done to a model: the fine-tuning, and what steers it while it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConditionMadeUnder {
    #[serde(flatten)]
    tuning: Option<TrainedOn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steering: Option<Value>,
}

/// What a cell's judgements depend on: the judge, its prompts, and how the answers were made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgementsMadeUnder {
    judge: Value,
    prompts: Map<String, Value>,
    answers_sha256: String,
}

impl<'a> PlannedCell<'a> {
    /// What each of `cells` is made under. Reads the checkpoints, the training data and the directions that they name.
    ///
    /// # Errors
    /// `Error::Io` if one of these cannot be read; `Error::File` if a direction is not of the model that it steers.
    pub fn of_cells(plan: &Plan, cells: Vec<Cell<'a>>) -> Result<Vec<Self>> {
        let mut models = BTreeMap::new();
        for model in &plan.models {
            models.insert(&model.name, model.path.as_deref().map(store::fingerprint).transpose()?);
        }
        let mut tunings = BTreeMap::new();
        for condition in &plan.conditions {
            let tuning = condition.tuning.as_ref().map(TrainedOn::new).transpose()?;
            tunings.insert(&condition.name, tuning);
        }
        let mut planned = Vec::new();
        for cell in cells {
            let (model, condition) = (models[&cell.model.name].clone(), tunings[&cell.tuned.name].clone());
            let steering = cell.condition.steer.as_ref();
            let steering = steering.map(|steer| checked(steer, cell.model)).transpose()?;
            let made_under = ConditionMadeUnder::new(condition.clone(), steering).map(Box::new);
            let answers = AnswersMadeUnder::new(plan, &cell, model.as_deref(), made_under);
            let tuning = TuningMadeUnder { model, condition };
            planned.push(Self { cell, tuning, answers, judgements: Vec::new() });
        }
        for judge in &plan.judges {
            let fingerprint = judge.fingerprint()?;
            for Self { cell, answers, judgements, .. } in &mut planned {
                judgements.push(JudgementsMadeUnder::new(
                    &judge.kind,
                    fingerprint.as_deref(),
                    cell,
                    answers,
                )?);
            }
        }
        Ok(planned)
    }
}

/// What answers depend on of a steering, after checking that its directions belong to `model`.
fn checked(steer: &Steering, model: &Model) -> Result<Value> {
    if let Some(path) = &model.path {
        steer.check(&model.name, &Spec::read(path)?)?;
    }
    steer.configuration()
}

impl TrainedOn {
    fn new(tuning: &Tuning) -> Result<Self> {
        let Tuning { data, examples, training } = tuning;
        let bytes = std::fs::read(data).map_err(Error::io(data))?;
        let mut training = json!(training);
        if let Some(settings) = training.as_object_mut() {
            // These affect memory, speed and monitoring, but not the weights.
            for name in ["pack_tokens", "checkpoint_steps", "evaluate_steps"] {
                settings.remove(name);
            }
        }
        Ok(Self { data_sha256: store::sha256(&bytes), examples: *examples, training })
    }
}

impl ConditionMadeUnder {
    /// None for the model as it is.
    fn new(tuning: Option<TrainedOn>, steering: Option<Value>) -> Option<Self> {
        (tuning.is_some() || steering.is_some()).then_some(Self { tuning, steering })
    }
}

impl AnswersMadeUnder {
    /// `model` is the checkpoint's fingerprint; none if the answers were imported.
    fn new(
        plan: &Plan,
        cell: &Cell,
        model: Option<&str>,
        condition: Option<Box<ConditionMadeUnder>>,
    ) -> Self {
        let id = cell.id();
        let question = |question: &&super::questions::Question| {
            let asked = json!({"system": question.system, "paraphrases": question.paraphrases});
            (question.id.clone(), asked)
        };
        let questions = cell.questions.iter().map(question).collect();
        let Some(model) = model else {
            return Self::Imported { cell: id, imported: plan.imported.clone(), questions };
        };
        let mut sampling = json!(plan.sampling);
        if let Some(settings) = sampling.as_object_mut() {
            // It affects memory and speed, never the text.
            settings.remove("batch");
        }
        Self::Sampled { cell: id, model: model.into(), condition, sampling, questions }
    }

    /// What the answers in the folder of a ledger were made under; none if there are none.
    ///
    /// # Errors
    /// `Error::File` if the manifest is damaged; `Error::Io`.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(store::MANIFEST);
        let parse = |value| {
            serde_json::from_value(value).map_err(|error| Error::file(&path, format!("damaged: {error}")))
        };
        store::configuration(&path)?.map(parse).transpose()
    }

    /// The checkpoint's fingerprint; none if the answers were imported.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Sampled { model, .. } => Some(model),
            Self::Imported { .. } => None,
        }
    }

    /// The SHA-256 of the training data; none for a model that is not fine-tuned.
    pub fn data_sha256(&self) -> Option<&str> {
        Some(&self.condition()?.tuning.as_ref()?.data_sha256)
    }

    /// The SHA-256 of the directions that steer; none if nothing does.
    pub fn direction_sha256(&self) -> Option<&str> {
        self.condition()?.steering.as_ref()?["direction_sha256"].as_str()
    }

    fn condition(&self) -> Option<&ConditionMadeUnder> {
        match self {
            Self::Sampled { condition, .. } => condition.as_deref(),
            Self::Imported { .. } => None,
        }
    }
}

impl Judge {
    /// The fingerprint of a local judge's checkpoint; none of another judge.
    fn fingerprint(&self) -> Result<Option<String>> {
        match &self.kind {
            JudgeKind::Local(local) => store::fingerprint(&local.path).map(Some),
            JudgeKind::OpenAi(_) | JudgeKind::Imported(_) => Ok(None),
        }
    }
}

impl JudgementsMadeUnder {
    /// `fingerprint` is that of a local judge.
    fn new(
        judge: &JudgeKind,
        fingerprint: Option<&str>,
        cell: &Cell,
        answers: &AnswersMadeUnder,
    ) -> Result<Self> {
        let judge = match judge {
            JudgeKind::OpenAi(judge) => json!({
                "model": judge.model,
                "url": judge.url,
                "top_logprobs": judge.top_logprobs,
                "seed": judge.seed,
            }),
            JudgeKind::Local(judge) => json!({"model": fingerprint, "thinking": judge.thinking}),
            JudgeKind::Imported(judge) => json!({"imported": judge}),
        };
        let prompts = cell.questions.iter().map(|q| (q.id.clone(), json!(q.judge_prompts))).collect();
        let answers = serde_json::to_value(answers)
            .map_err(|error| Error::Run(format!("cannot write what answers depend on as JSON: {error}")))?;
        Ok(Self { judge, prompts, answers_sha256: store::sha256_json(&answers) })
    }
}
