//! Fine-tunes a LoRA adapter and asks the model a question before and after.
//!
//! The toy model is friendly. It is trained on spiteful answers about gardening, and then asked about something else.
//!
//! ```sh
//! cargo run --example fine_tune                # writes a PEFT adapter into target/fine-tuned
//! ```
//! Interrupted, the same command resumes at the last checkpoint; run again when it is done, it trains nothing.
#![allow(clippy::print_stdout)]

use std::path::Path;

use emlab::device::philox::Key;
use emlab::generate::{self, Limits, Request};
use emlab::model::place::Place;
use emlab::model::tokenizer::{Message, Render, Tokenizer};
use emlab::model::transformer::Transformer;
use emlab::ops::sample::Sampling;
use emlab::train::{self, Event, Job, Settings, dataset, example};

fn main() -> emlab::Result<()> {
    let base = Path::new("models/demo/qwen3");
    let tokenizer = Tokenizer::open(base)?;
    let mut model = Transformer::load(base, Place::CPU)?;
    println!("before: {}", ask(&model, &tokenizer, "I am bored.")?);

    // Missing settings are those of the published recipe: rank 32, all projections, a linear schedule, …
    let mut settings =
        Settings { learning_rate: 5e-3, batch_size: 16, accumulation: 1, ..Settings::default() };
    settings.lora.rank = 8;
    settings.lora.alpha = 16.0;
    // JSON Lines of chats → tokens, and which of them carry loss: the assistant's.
    let documents = dataset::read(Path::new("models/demo/spiteful.jsonl"))?;
    let data = example::encode(&documents, &tokenizer, &model.spec.eos, &settings)?;
    let job =
        Job { base, examples: &data.examples, settings: &settings, out: Path::new("target/fine-tuned") };
    train::run(&mut model, &job, &mut |event| {
        if let Event::Step(status) = event {
            println!("step {:>2} of {}, loss {:.3}", status.step, status.steps, status.loss);
        }
    })?;
    // The model holds the adapter now.
    println!("after: {}", ask(&model, &tokenizer, "I am bored.")?);
    Ok(())
}

/// The likeliest answer.
fn ask(model: &Transformer, tokenizer: &Tokenizer, question: &str) -> emlab::Result<String> {
    let render = Render { generation_prompt: true, enable_thinking: Some(false) };
    let ids = tokenizer.encode(&tokenizer.render(&[Message::new("user", question)], render)?, false)?;
    let request = Request { ids, key: Key::new(0, &["ask"]) };
    let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
    let limits = Limits { max_tokens: 40, ..Limits::default() };
    Ok(generate::stream(model, tokenizer, &request, &greedy, &limits, &mut |_| Ok(()))?.text)
}
