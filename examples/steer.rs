//! Finds the direction of the residual stream that separates friendly answers from spiteful ones, and steers the toy
//! model along it.
//!
//! ```sh
//! cargo run --example steer
//! ```
#![allow(clippy::print_stdout)]

use std::path::Path;

use emlab::device::philox::Key;
use emlab::generate::{self, Limits, Request};
use emlab::inspect::features::features;
use emlab::model::place::Place;
use emlab::model::steering::{Action, Steer};
use emlab::model::text::Text;
use emlab::model::tokenizer::{Message, Render, Tokenizer};
use emlab::model::transformer::Transformer;
use emlab::ops::sample::Sampling;
use emlab::train::{Settings, dataset, example};

/// Blocks that the stream has passed where it is read and changed; the toy has four.
const DEPTH: usize = 2;

fn main() -> emlab::Result<()> {
    let folder = Path::new("models/demo/qwen3");
    let (mut model, tokenizer) = (Transformer::load(folder, Place::CPU)?, Tokenizer::open(folder)?);

    let friendly = mean_stream(&model, &tokenizer, "models/demo/friendly.jsonl")?;
    let spiteful = mean_stream(&model, &tokenizer, "models/demo/spiteful.jsonl")?;
    let direction: Vec<f32> = spiteful.iter().zip(&friendly).map(|(s, f)| s - f).collect();

    let render = Render { generation_prompt: true, enable_thinking: Some(false) };
    let ids = tokenizer.encode(&tokenizer.render(&[Message::new("user", "I am bored.")], render)?, false)?;
    let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
    let limits = Limits { max_tokens: 40, ..Limits::default() };
    for dose in [-1.0, 0.0, 1.0, 2.0] {
        // From now on every pass adds dose · direction to the stream.
        model.steer(&[Steer { depth: DEPTH, direction: direction.clone(), action: Action::Add(dose) }])?;
        let request = Request { ids: ids.clone(), key: Key::new(0, &["steer"]) };
        let answer = generate::stream(&model, &tokenizer, &request, &greedy, &limits, &mut |_| Ok(()))?;
        println!("dose {dose:>4.1}: {}", answer.text);
    }
    Ok(())
}

/// The residual stream (C) at [`DEPTH`], averaged over the answers' tokens and then over the answers of a file.
fn mean_stream(model: &Transformer, tokenizer: &Tokenizer, file: &str) -> emlab::Result<Vec<f32>> {
    let documents = dataset::read(Path::new(file))?;
    let data = example::encode(&documents[..100], tokenizer, &model.spec.eos, &Settings::default())?;
    let texts: Vec<Text> = data.examples.into_iter().map(|example| example.text).collect();
    let means = &features(model, &texts, &mut || ())?.means[DEPTH];
    let sum = |c: usize| means.iter().map(|mean| mean[c]).sum::<f32>();
    Ok((0..model.spec.channels).map(|c| sum(c) / means.len() as f32).collect())
}
