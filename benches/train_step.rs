//! Time and memory of a LoRA step (r 32, all projections) of real models with random weights, on the GPU.
//!
//!     cargo bench --bench train_step -- [MODEL…] [DOCUMENTS×TOKENS]        default: qwen3-8b 2x2048
//!
//! A step is forward, loss on every token, backward and AdamW; the median of ten after three.

#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::time::Instant;

use emlab::device::Gpu;
use emlab::device::memory::purpose;
use emlab::model::cards;
use emlab::model::lora::Lora;
use emlab::model::place::Place;
use emlab::model::saved::Saved;
use emlab::model::transformer::{Batch, Transformer};
use emlab::ops::adamw::AdamW;
use emlab::train::optimiser::Optimiser;

const GIB: f64 = (1u64 << 30) as f64;

fn main() -> emlab::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let shape = |a: &String| a.split_once('x').and_then(|(b, t)| Some((b.parse().ok()?, t.parse().ok()?)));
    let (b, t): (usize, usize) = arguments.iter().find_map(shape).unwrap_or((2, 2048));
    let names: Vec<&String> = arguments.iter().filter(|a| shape(a).is_none()).collect();
    let default = "qwen3-8b".to_owned();
    for name in if names.is_empty() { vec![&default] } else { names } {
        step(name, b, t)?;
    }
    Ok(())
}

fn step(name: &str, b: usize, t: usize) -> emlab::Result<()> {
    let gpu = Gpu::open()?;
    let card = cards::find(name).ok_or_else(|| emlab::Error::Setting(format!("no card is called {name}")))?;
    let mut model = Transformer::random(card.spec()?, 0, Place::gpu(gpu))?;
    model.attach(&Lora::default(), 0)?;
    let mut optimiser = Optimiser::new(&model)?;
    let n = b * t;
    let keep = model.training_bytes(n, false) + (1 << 30) < gpu.free_memory()?.0;
    let mut saved = purpose("activations", || {
        if keep {
            Saved::for_training(&model.spec, model.place)
        } else {
            Saved::for_recomputing(&model.spec, model.place)
        }
    });
    let tokens = (0..n).map(|i| (i * 7919 + 13) as u32 % model.spec.vocab as u32).collect();
    let batch = Batch { tokens, starts: (0..=b).map(|i| (i * t) as u32).collect(), dropout: None };
    let rows: Vec<u32> = (0..b * t).filter(|i| (i + 1) % t != 0).map(|i| i as u32).collect();
    let targets: Vec<u32> = rows.iter().map(|i| batch.tokens[*i as usize + 1]).collect();
    let mut seconds = Vec::new();
    let mut parts = [0.0; 4];
    let mut loss = 0.0;
    for number in 0..13u32 {
        let begun = Instant::now();
        let mut last = begun;
        let mut lap = |part: usize| {
            gpu.synchronize()?;
            parts[part] = last.elapsed().as_secs_f64();
            last = Instant::now();
            emlab::Result::Ok(())
        };
        model.forward(&mut saved, &batch, &mut ())?;
        lap(0)?;
        let nll = model.loss_gradient(&mut saved, &rows, &targets, 1.0 / rows.len() as f32)?;
        loss = nll.iter().map(|x| f64::from(*x)).sum::<f64>() / rows.len() as f64;
        lap(1)?;
        model.backward(&mut saved, &batch, &mut ())?;
        lap(2)?;
        let adamw = AdamW { lr: 1e-4, betas: [0.9, 0.999], eps: 1e-8, decay: 0.01, step: number + 1 };
        let norm = optimiser.step(&mut model, adamw, 1.0)?;
        assert!(norm.is_finite(), "the gradient is not finite");
        lap(3)?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let mut timed = seconds.split_off(3);
    timed.sort_by(f64::total_cmp);
    let median = timed[timed.len() / 2];
    let memory = gpu.memory();
    let [forward, head, backward, update] = parts.map(|s| s * 1e3);
    println!(
        "{name} {b}x{t}: {:.1} ms a step, {:.0} tokens/s, peak {:.1} GiB{}; forward {forward:.1}, loss {head:.1}, backward \
         {backward:.1}, update {update:.1} ms; loss {loss:.3}",
        median * 1e3,
        n as f64 / median,
        memory.peak as f64 / GIB,
        if keep { "" } else { " (layers computed again)" },
    );
    Ok(())
}
