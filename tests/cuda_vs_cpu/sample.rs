//! The next token: the same on both devices.

use emlab::device::philox::Key;
use emlab::device::{DType, Device, Tensor};
use emlab::ops::sample::{self, Draw, Sampling};

use super::{card, random};

const SETTINGS: [Sampling; 9] = [
    Sampling::GREEDY,
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 },
    Sampling { temperature: 0.7, top_k: 0, top_p: 1.0 },
    Sampling { temperature: 1.0, top_k: 50, top_p: 1.0 },
    Sampling { temperature: 1.0, top_k: 0, top_p: 0.9 },
    Sampling { temperature: 1.3, top_k: 20, top_p: 0.95 },
    Sampling { temperature: 1.0, top_k: 1, top_p: 0.5 },
    Sampling { temperature: 0.01, top_k: 0, top_p: 0.99 },
    Sampling { temperature: 1.0, top_k: usize::MAX, top_p: 0.3 },
];

/// Logits as models give them, or with many ties, or with one token far ahead.
fn logits(n: usize, v: usize, style: usize) -> Tensor {
    let mut logits = random(&format!("logits {style}"), &[n, v], DType::F32);
    for (i, x) in logits.f32_mut().iter_mut().enumerate() {
        *x = match style {
            0 => *x * 8.0,
            1 => (*x * 3.0).round(),
            _ => *x * 4.0 + if i % v == v / 3 { 15.0 } else { 0.0 },
        };
    }
    logits
}

fn draws<'a>(n: usize, forbidden: &'a [&'a [u32]]) -> Vec<Draw<'a>> {
    let one = |i: usize| Draw {
        key: Key::new(3, &["draw", &i.to_string()]),
        position: i as u32 * 7,
        forbidden: forbidden[i % forbidden.len()],
    };
    (0..n).map(one).collect()
}

fn draw(logits: &Tensor, draws: &[Draw], sampling: Sampling, device: Device) -> Vec<u32> {
    let mut tokens = vec![u32::MAX; draws.len()];
    sample::forward(&mut tokens, &mut logits.to(device).unwrap(), sampling, draws).unwrap();
    tokens
}

/// Draws `n` tokens out of `v` in every way, on both devices.
fn compare(card: Device, n: usize, v: usize) {
    let end = [v as u32 - 1, 0];
    let forbidden: [&[u32]; 3] = [&[], if v > 2 { &end } else { &[] }, if v > 2 { &end[..1] } else { &[] }];
    for style in 0..3 {
        let (logits, draws) = (logits(n, v, style), draws(n, &forbidden));
        for sampling in SETTINGS {
            let exact = draw(&logits, &draws, sampling, Device::Cpu);
            let found = draw(&logits, &draws, sampling, card);
            assert_eq!(found, exact, "{n} rows of {v}, style {style}, {sampling:?}");
        }
    }
}

#[test]
fn a_draw_is_the_same_on_both_devices() {
    let Some(card) = card() else { return };
    for (n, v) in [(5, 37), (3, 1), (6, 1000), (4, 1001), (3, 5000)] {
        compare(card, n, v);
    }
}

#[test]
fn large_vocabularies_are_drawn_from_alike() {
    let Some(card) = card() else { return };
    for (n, v) in [(5, 50_001), (4, 151_936), (3, 262_144)] {
        compare(card, n, v);
    }
}

#[test]
fn a_draw_does_not_depend_on_its_batch() {
    let Some(card) = card() else { return };
    let v = 20_000;
    let (logits, draws) = (logits(70, v, 0), draws(70, &[&[]]));
    for sampling in SETTINGS {
        let all = draw(&logits, &draws, sampling, card);
        for i in [0, 1, 33, 69] {
            let row = Tensor::from_f32(&[1, v], logits.f32()[i * v..][..v].to_vec());
            assert_eq!(draw(&row, &draws[i..=i], sampling, card), all[i..=i]);
        }
    }
}

#[test]
fn logits_that_are_not_finite_are_noticed() {
    let Some(card) = card() else { return };
    for v in [37, 10_000] {
        for bad in [f32::NAN, f32::INFINITY] {
            let (mut logits, draws) = (logits(3, v, 0), draws(3, &[&[]]));
            logits.f32_mut()[2 * v + v / 2] = bad;
            let mut logits = logits.to(card).unwrap();
            let result = sample::forward(&mut [0; 3], &mut logits, SETTINGS[1], &draws);
            assert!(result.unwrap_err().to_string().contains("not finite"));
        }
    }
}
