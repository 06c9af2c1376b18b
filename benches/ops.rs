//! The cases of `emlab bench` under criterion, which remembers the last run: for finding out whether a change of a kernel
//! made it faster. `cargo bench --bench ops -- norm` runs some of them.
//!
//! On a GPU, where there is one, at the sizes of Qwen3 8B for passes of 4,096 tokens; else on the CPU at those of Gemma 3
//! 270M for 256. Throughput is in bytes that the op must move, or in FLOP ("elements") where it has any.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use emlab::bench::cases;
use emlab::bench::clock::Clock;
use emlab::bench::inputs::Inputs;
use emlab::device::Gpu;
use emlab::model::cards;
use emlab::model::place::Place;

fn ops(criterion: &mut Criterion) {
    let (place, model, tokens) = match Gpu::open() {
        Ok(gpu) => (Place::gpu(gpu), "qwen3-8b", 4096),
        Err(_) => (Place::CPU, "gemma-3-270m", 256),
    };
    let card = cards::find(model).expect("a card of models/");
    let inputs = Inputs::new(place);
    let mut clock = Clock::new(place).expect("a GiB for the clock");
    for case in cases::all(&[card], tokens, &inputs).expect("a card of a known model") {
        let mut group = criterion.benchmark_group(format!("{} {}", case.op, case.model));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1));
        group.throughput(match case.flops {
            0.0 => Throughput::Bytes(case.bytes as u64),
            flops => Throughput::Elements(flops as u64),
        });
        let sizes = case.sizes.clone();
        // Inputs are made only for what the filter lets through.
        let mut prepared = None;
        let mut case = Some(case);
        group.bench_function(sizes, |bencher| {
            if let Some(case) = case.take() {
                prepared = Some(case.prepare(&inputs).expect("inputs that fit"));
            }
            let work = prepared.as_mut().expect("made above");
            bencher.iter_custom(|runs| {
                let seconds = (0..runs).map(|_| clock.once(work).expect("an op that works")).sum();
                Duration::from_secs_f64(seconds)
            });
        });
        group.finish();
    }
}

criterion_group!(benches, ops);
criterion_main!(benches);
