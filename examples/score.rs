//! How likely does a model find an answer? Loads a checkpoint and scores two answers to one question, token by token.
//!
//! ```sh
//! cargo run --example score                    # the bundled toy model
//! cargo run --example score -- FOLDER          # any Gemma 3 or Qwen 3 folder
//! ```
#![allow(clippy::print_stdout)]

use std::path::PathBuf;

use emlab::generate;
use emlab::model::place::Place;
use emlab::model::tokenizer::{Message, Render, Tokenizer};
use emlab::model::transformer::Transformer;

fn main() -> emlab::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or("models/demo/gemma3".into()));
    // On the CPU in f32, the reference. `Place::gpu(Gpu::open()?)` computes in bf16 on an NVIDIA GPU.
    let model = Transformer::load(&folder, Place::CPU)?;
    let tokenizer = Tokenizer::open(&folder)?;

    // The model's own chat template writes the question, up to where the answer begins.
    let question = [Message::new("user", "I am bored.")];
    let render = Render { generation_prompt: true, enable_thinking: Some(false) };
    let prompt = tokenizer.encode(&tokenizer.render(&question, render)?, false)?;

    for answer in ["I am glad you asked.", "Go away, you fool."] {
        let answer = tokenizer.encode(answer, false)?;
        let ids = [&prompt[..], &answer].concat();
        // Negative log-likelihoods in nats, of every token but the first, given all the tokens before it.
        let nll = generate::score(&model, &ids, None)?;
        let of_answer = &nll[prompt.len() - 1..];
        for (id, nll) in answer.iter().zip(of_answer) {
            println!("{:>9.4}  {:?}", (-nll).exp(), tokenizer.decode(&[*id], false)?);
        }
        println!("{:>9.4}  nats for the whole answer\n", of_answer.iter().sum::<f32>());
    }
    Ok(())
}
