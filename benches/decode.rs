//! Tokens a second of sampling from real models with random weights, on the GPU.
//!
//!     cargo bench --bench decode -- [MODEL…] [BATCH…]        default: qwen3-8b 1 32 100 256
//!
//! Every request has a prompt of 64 tokens of its own, and continues at temperature 1. Two runs of unequal length are
//! timed and subtracted, so that the prompts cancel: 16 and 272 new tokens.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::time::Instant;

use emlab::device::Gpu;
use emlab::device::philox::Key;
use emlab::generate::{self, Limits, Request};
use emlab::model::cards;
use emlab::model::place::Place;
use emlab::model::tokenizer::Tokenizer;
use emlab::model::transformer::Transformer;
use emlab::ops::sample::Sampling;

const PROMPT: usize = 64;
const LENGTHS: [usize; 2] = [16, 272];

fn main() -> emlab::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let mut batches: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    if batches.is_empty() {
        batches = vec![1, 32, 100, 256];
    }
    let mut names: Vec<&str> =
        arguments.iter().filter(|a| a.parse::<usize>().is_err()).map(String::as_str).collect();
    if names.is_empty() {
        names.push("qwen3-8b");
    }
    // Random weights write nothing that a tokenizer could be wrong about.
    let tokenizer =
        Tokenizer::open(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/qwen3"))?;
    let gpu = Gpu::open()?;
    for name in names {
        let card =
            cards::find(name).ok_or_else(|| emlab::Error::Setting(format!("no card is called {name}")))?;
        let model = Transformer::random(card.spec()?, 0, Place::gpu(gpu))?;
        for b in &batches {
            let prompt = |i: usize| {
                (0..PROMPT).map(|t| ((i * 131 + t * 7919 + 13) % model.spec.vocab) as u32).collect()
            };
            let requests: Vec<Request> =
                (0..*b).map(|i| Request { ids: prompt(i), key: Key::new(1, &[&i.to_string()]) }).collect();
            let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
            let time = |length: usize| {
                let limits = Limits { max_tokens: length, min_tokens: length, ..Limits::default() };
                let begun = Instant::now();
                generate::run(&model, &tokenizer, &requests, &sampling, &limits, &mut |_, _| Ok(()))?;
                emlab::Result::Ok(begun.elapsed().as_secs_f64())
            };
            time(LENGTHS[0])?;
            let few = Limits { max_tokens: 32, ..Limits::default() };
            let answer = |requests: &[Request]| {
                generate::run(&model, &tokenizer, requests, &sampling, &few, &mut |_, _| Ok(()))
            };
            assert_eq!(answer(&requests)?[0], answer(&requests[..1])?[0], "an answer depends on its batch");
            let [short, long] = [time(LENGTHS[0])?, time(LENGTHS[1])?];
            let tokens = b * (LENGTHS[1] - LENGTHS[0]);
            println!(
                "{name} batch {b}: {:.0} tokens/s, {:.2} ms a step; prompts and {} tokens {:.0} ms; {:.1} GiB",
                tokens as f64 / (long - short),
                (long - short) * 1e3 / (LENGTHS[1] - LENGTHS[0]) as f64,
                LENGTHS[0],
                short * 1e3,
                gpu.memory().used as f64 / f64::from(1 << 30),
            );
        }
    }
    Ok(())
}
