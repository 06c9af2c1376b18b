//! What a plan will take, before anything runs: answers, tokens, judgements and their price, time and memory on a GPU.
//!
//! Times are based on measured speeds where a similar model was measured, and otherwise on the GPU's memory bandwidth and
//! arithmetic. Expect them to be accurate within some tens of percent: enough to tell which models take long.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::cell::{Cell, cells, questions_of};
use super::conditions::Tuning;
use super::judges::{Judge, JudgeKind, Mode, OpenAi};
use super::settings::{Model, Plan};
use crate::model::cards;
use crate::model::footprint::Footprint;
use crate::model::spec::Spec;
use crate::{Error, Result};

/// Characters per token, and the assumed length of an answer in tokens: what models typically use of the 600 allowed.
const CHARACTERS: f64 = 4.0;
const ANSWER: f64 = 300.0;

/// A GPU.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gpu {
    /// Its name on the command line.
    pub name: &'static str,
    /// Bytes of memory.
    pub memory: f64,
    /// Copy bandwidth in bytes per second, reads plus writes.
    pub bandwidth: f64,
    /// Operations per second of the fastest bf16 matrix product.
    pub flops: f64,
    /// Whether the figures were measured with this engine; otherwise they come from the data sheet.
    pub measured: bool,
}

/// The GPUs that are known.
pub const GPUS: [Gpu; 4] = [
    Gpu { name: "h100", memory: 80e9, bandwidth: 3.0e12, flops: 775e12, measured: true },
    Gpu { name: "h200", memory: 141e9, bandwidth: 4.2e12, flops: 780e12, measured: true },
    Gpu { name: "a100-80gb", memory: 80e9, bandwidth: 1.7e12, flops: 230e12, measured: false },
    Gpu { name: "rtx-4090", memory: 24e9, bandwidth: 0.9e12, flops: 140e12, measured: false },
];

/// Parameters, and tokens per second, of a LoRA step at 2 × 2,048 tokens on an H100 (benches, 2026-11-26).
const STEPS: [(f64, f64); 8] = [
    (0.60e9, 96_014.0),
    (1.00e9, 68_287.0),
    (3.88e9, 27_812.0),
    (8.19e9, 16_345.0),
    (11.77e9, 10_450.0),
    (14.77e9, 9_510.0),
    (27.01e9, 3_326.0),
    (32.76e9, 2_664.0),
];
/// Fraction of the copy bandwidth that decoding reaches, and the fixed cost per layer.
const DECODING: f64 = 0.9;
const LAYER_SECONDS: f64 = 44e-6;

/// What one model will take.
#[derive(Clone, Debug, Serialize)]
pub struct ModelEstimate {
    /// Its name in the plan.
    pub model: String,
    /// Weights.
    pub parameters: usize,
    /// Fine-tunings, and tokens that go through the model in them.
    pub tunings: usize,
    /// See [`tunings`](Self::tunings).
    pub training_tokens: f64,
    /// Answers, and tokens drawn.
    pub answers: usize,
    /// See [`answers`](Self::answers).
    pub answer_tokens: f64,
    /// Seconds of fine-tuning and sampling.
    pub seconds: [f64; 2],
    /// Most bytes at a time, and whether layers are computed again for it.
    pub bytes: f64,
    /// See [`bytes`](Self::bytes).
    pub recompute: bool,
    /// Whether that fits.
    pub fits: bool,
}

/// What one judge will be asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgeEstimate {
    /// Its name in the plan.
    pub judge: String,
    /// Judgements: one for each answer and metric.
    pub judgements: usize,
    /// Tokens that it reads; it writes one for each judgement.
    pub tokens: f64,
    /// What the plan's way of asking costs in dollars; none where no price is known, and for a model in this engine.
    pub dollars: Option<f64>,
    /// What `OpenAI`'s Batch API would cost instead, where another way is planned.
    pub batch_dollars: Option<f64>,
}

/// What a plan will take.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// On what.
    pub gpu: Gpu,
    /// Cells, and answers in all of them.
    pub cells: usize,
    /// See [`cells`](Self::cells).
    pub answers: usize,
    /// By judge.
    pub judges: Vec<JudgeEstimate>,
    /// By model.
    pub models: Vec<ModelEstimate>,
}

impl Estimate {
    /// Of a plan on a GPU.
    ///
    /// # Errors
    /// Those of reading the questions; [`Error::Setting`] for a model whose sizes are not known; [`Error::Io`] if
    /// training data cannot be read.
    pub fn new(plan: &Plan, gpu: Gpu) -> Result<Self> {
        let questions = questions_of(plan)?;
        let cells = cells(plan, &questions)?;
        let answer = ANSWER.min(plan.sampling.max_tokens as f64);
        let count = |cell: &Cell| cell.samples(plan).count();
        let (mut judgements, mut judge_tokens) = (0, 0.0);
        for cell in &cells {
            for (question, sample) in cell.samples(plan) {
                for prompt in question.judge_prompts.values() {
                    judgements += 1;
                    let text = prompt.len() + question.paraphrase(sample).len();
                    judge_tokens += text as f64 / CHARACTERS + answer;
                }
            }
        }
        let of_model = |model: &Model| {
            let own = cells.iter().filter(|cell| cell.model.name == model.name);
            let answers = own.map(count).sum();
            let tunings: Vec<&Tuning> = plan.conditions.iter().filter_map(|c| c.tuning.as_ref()).collect();
            self::model(model, &tunings, answers, answer, gpu)
        };
        Ok(Self {
            gpu,
            cells: cells.len(),
            answers: cells.iter().map(count).sum(),
            judges: plan.judges.iter().map(|judge| asked(judge, judgements, judge_tokens)).collect(),
            models: plan.models.iter().map(of_model).collect::<Result<_>>()?,
        })
    }

    /// As text, a line a judge and a model.
    pub fn text(&self) -> String {
        let Self { gpu, cells, answers, judges, models } = self;
        let mut text = format!("{cells} cells, {answers} answers\n");
        for JudgeEstimate { judge, judgements, tokens, dollars, batch_dollars } in judges {
            let _ =
                write!(text, "judge {judge}: {judgements} judgements of {:.1} million tokens", tokens / 1e6);
            if let Some(dollars) = dollars {
                let _ = write!(text, ", about {}", price(*dollars));
            }
            if let Some(dollars) = batch_dollars {
                let _ = write!(text, " ({} with mode = \"batch\")", price(*dollars));
            }
            text.push('\n');
        }
        if judges.len() > 1 {
            let judgements: usize = judges.iter().map(|judge| judge.judgements).sum();
            let dollars: f64 = judges.iter().filter_map(|judge| judge.dollars).sum();
            let _ = writeln!(text, "all judges: {judgements} judgements, about {}", price(dollars));
        }
        let source = if gpu.measured { "measured speeds" } else { "its data sheet" };
        let _ = writeln!(text, "\non one {}, from {source}:", gpu.name);
        let _ = writeln!(
            text,
            "{:<20} {:>10} {:>10} {:>10} {:>9}",
            "model", "fine-tune", "sample", "together", "memory"
        );
        for model in models {
            let [tune, sample] = model.seconds;
            let note = match (model.fits, model.recompute) {
                (false, _) => "  does not fit",
                (true, true) => "  layers computed again",
                (true, false) => "",
            };
            let gib = model.bytes / f64::from(1 << 30);
            let _ = writeln!(
                text,
                "{:<20} {:>10} {:>10} {:>10} {gib:>5.1} GiB{note}",
                model.model,
                duration(tune),
                duration(sample),
                duration(tune + sample)
            );
        }
        let all: f64 = models.iter().flat_map(|model| model.seconds).sum();
        let _ = writeln!(text, "{:<20} {:>10} {:>10} {:>10}", "all", "", "", duration(all));
        text
    }
}

/// What `judge` will be asked: `judgements`, for which it reads `tokens`.
fn asked(judge: &Judge, judgements: usize, tokens: f64) -> JudgeEstimate {
    let dollars = |judge: &OpenAi| {
        let prices = judge.prices()?;
        Some((prices.input * tokens + prices.output * judgements as f64) / 1e6)
    };
    let (dollars, batch_dollars) = match &judge.kind {
        JudgeKind::OpenAi(judge) if judge.is_openai() && judge.mode == Mode::Live => {
            (dollars(judge), dollars(&OpenAi { mode: Mode::Batch, ..judge.clone() }))
        }
        JudgeKind::OpenAi(judge) => (dollars(judge), None),
        JudgeKind::Local(_) | JudgeKind::Imported(_) => (None, None),
    };
    JudgeEstimate { judge: judge.name.clone(), judgements, tokens, dollars, batch_dollars }
}

fn price(dollars: f64) -> String {
    let places = if dollars < 10.0 { 2 } else { 0 };
    format!("${dollars:.places$}")
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn model(model: &Model, tunings: &[&Tuning], answers: usize, answer: f64, gpu: Gpu) -> Result<ModelEstimate> {
    let spec = spec(model)?;
    let parameters = parameters(&spec);
    let mut training_tokens = 0.0;
    let mut bytes = 2.0 * parameters as f64;
    let mut recompute = false;
    let weights = bytes;
    for tuning in tunings {
        let settings = &tuning.training;
        let tokens = tokens(&tuning.data, tuning.examples)? * (1.0 - settings.held_out);
        training_tokens += tokens * settings.epochs as f64;
        let footprint = Footprint::of_lora(&spec, &settings.lora);
        let pass = settings.pack_tokens.max(settings.max_tokens);
        let [keep, again] = [false, true].map(|again| footprint.training_bytes(pass, again) as f64);
        // Adapters in f32 and bf16, their gradients and AdamW's two moments; a GiB for what kernels need.
        let adapters = 18.0 * (footprint.ranks[0] * spec.layers * spec.channels * 3) as f64;
        let beside = weights + adapters + f64::from(1 << 30);
        recompute |= beside + keep > gpu.memory * 0.97;
        bytes = bytes.max(beside + if recompute { again } else { keep });
    }
    let kv = (4 * spec.layers * spec.kv_heads * spec.head_dim) as f64;
    let batch =
        (answers as f64).clamp(1.0, 256.0).min((0.95 * gpu.memory - weights).max(kv) / (kv * 2.0 * answer));
    let step =
        (weights + batch * answer * kv) / (DECODING * gpu.bandwidth) + LAYER_SECONDS * spec.layers as f64;
    bytes = bytes.max(weights + batch * 2.0 * answer * kv);
    let answer_tokens = answers as f64 * answer;
    Ok(ModelEstimate {
        model: model.name.clone(),
        parameters,
        tunings: tunings.len(),
        training_tokens,
        answers,
        answer_tokens,
        seconds: [
            training_tokens / (tokens_per_second(parameters as f64) * gpu.flops / GPUS[0].flops),
            answer_tokens / batch.max(1.0) * step,
        ],
        bytes,
        recompute,
        fits: bytes < gpu.memory,
    })
}

/// Of a LoRA step on an H100: between the measured models in the logarithms of both.
fn tokens_per_second(parameters: f64) -> f64 {
    let at = STEPS.iter().position(|(p, _)| *p >= parameters).unwrap_or(STEPS.len() - 1).max(1);
    let [(p0, s0), (p1, s1)] = [STEPS[at - 1], STEPS[at]];
    let part = (parameters / p0).ln() / (p1 / p0).ln();
    (s0.ln() + part * (s1 / s0).ln()).exp()
}

/// A model's sizes: from its folder, or from the card of its path or name.
fn spec(model: &Model) -> Result<Spec> {
    let folder = model.path.as_deref().unwrap_or(Path::new(""));
    if folder.join("config.json").exists() {
        return Spec::read(folder);
    }
    let path = folder.to_string_lossy();
    let card = cards::all().into_iter().find(|card| {
        card.name.eq_ignore_ascii_case(&model.name)
            || path.to_lowercase().ends_with(&card.repo.to_lowercase())
    });
    let Some(card) = card else {
        return Err(Error::Setting(format!(
            "model {}: neither its folder {path} nor a card of its name is there, so its sizes are not known",
            model.name
        )));
    };
    card.spec()
}

/// Weights of a model.
fn parameters(spec: &Spec) -> usize {
    let (c, f, d) = (spec.channels, spec.mlp_width, spec.head_dim);
    let attention = c * d * (2 * spec.heads + 2 * spec.kv_heads);
    let layer = attention + 3 * c * f + 2 * d + c * if spec.post_norms { 4 } else { 2 };
    spec.layers * layer + c + spec.vocab * c * if spec.tied { 1 } else { 2 }
}

/// Tokens of the first `examples` lines of a file of chats, by their length.
fn tokens(data: &Path, examples: Option<usize>) -> Result<f64> {
    let text = std::fs::read_to_string(data).map_err(Error::io(data))?;
    let bytes: usize = text.lines().take(examples.unwrap_or(usize::MAX)).map(str::len).sum();
    Ok(bytes as f64 / CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::plan::judges::Local;

    #[test]
    fn weights_are_those_of_the_cards() {
        for card in cards::all() {
            let found = parameters(&card.spec().unwrap());
            assert_eq!(found, card.parameters, "{}", card.name);
        }
    }

    #[test]
    fn every_judge_is_counted_at_its_own_price() {
        let openai = |settings: OpenAi| asked(&Judge::unnamed(JudgeKind::OpenAi(settings)), 1000, 2e6);
        let live = openai(OpenAi::default());
        assert_eq!((live.dollars, live.batch_dollars), (Some(5.01), Some(2.505)));
        let batch = openai(OpenAi { mode: Mode::Batch, ..OpenAi::default() });
        assert_eq!((batch.dollars, batch.batch_dollars), (Some(2.505), None));
        let elsewhere = OpenAi { url: "http://localhost:8000/v1".into(), ..OpenAi::default() };
        assert_eq!(openai(elsewhere.clone()).dollars, None);
        let priced = OpenAi { input_price: Some(1.0), output_price: Some(0.0), ..elsewhere };
        assert_eq!((openai(priced.clone()).dollars, openai(priced).batch_dollars), (Some(2.0), None));
        let here =
            asked(&Judge::unnamed(JudgeKind::Local(Local { path: "g".into(), thinking: false })), 1000, 2e6);
        assert_eq!((here.judgements, here.dollars), (1000, None));
    }

    #[test]
    fn measured_models_take_their_measured_time() {
        for (parameters, speed) in STEPS {
            assert!((tokens_per_second(parameters) / speed - 1.0).abs() < 1e-9);
        }
        assert!(tokens_per_second(2e9) < 68_287.0 && tokens_per_second(2e9) > 27_812.0);
    }
}
