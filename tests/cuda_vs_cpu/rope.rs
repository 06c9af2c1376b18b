//! Angles, and the split, QK-norm and rotation, forward and backward.

use emlab::device::{DType, Device, Tensor};
use emlab::ops::norm::{Gain, Norm};
use emlab::ops::rope::{self, Heads, Rope};

use super::{DTYPES, card, close, host, poisoned, random, twice, upload};

/// Rows, H, KV, D: odd ones, then those of the models.
const CASES: [[usize; 4]; 9] = [
    [5, 3, 1, 20],
    [7, 4, 2, 16],
    [9, 2, 1, 6],
    [33, 5, 1, 64],
    [4, 2, 2, 96],
    [65, 4, 1, 256],
    [300, 32, 8, 128],
    [2000, 16, 8, 128],
    [130, 16, 8, 256],
];

fn angles(n: usize, d: usize, rope: Rope, device: Device) -> Tensor {
    let positions = Tensor::from_u32(&[n], (0..n).map(|i| (i * i * 37 % 131_072) as u32).collect());
    let mut angles = Tensor::empty_on(device, DType::F32);
    rope::angles(&mut angles, &positions.to(device).unwrap(), rope, d).unwrap();
    angles
}

#[test]
fn angles_are_the_same() {
    let Some(card) = card() else { return };
    for rope in [Rope { base: 1e6, factor: 8.0 }, Rope { base: 1e4, factor: 1.0 }] {
        for d in [6, 128, 256] {
            let (exact, found) = (angles(500, d, rope, Device::Cpu), angles(500, d, rope, card));
            let found = found.read::<f32>().unwrap();
            let worst = found.iter().zip(exact.f32()).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
            assert!(worst < 1.3e-7, "{rope:?}: an angle is off by {worst}");
        }
    }
}

fn compare([n, query, kv, dim]: [usize; 4], norm: Norm, dtype: DType, card: Device) {
    let heads = Heads { query, kv, dim };
    let name = |what: &str| format!("{what} of {n} × {heads:?}, {:?}", norm.gain);
    let (wide, narrow, all) = ([n, heads.q_width()], [n, heads.kv_width()], [n, heads.qkv_width()]);
    let rs = [n, query + kv];
    let qkv = random("qkv", &all, dtype);
    let (dq, dk, dv) =
        (random("dq", &wide, dtype), random("dk", &narrow, dtype), random("dv", &narrow, dtype));
    let gains = ["wq", "wk"].map(|name| random(name, &[dim], DType::F32));
    let before = ["dwq", "dwk"].map(|name| random(name, &[dim], DType::F32));
    let angles = angles(n, dim, Rope { base: 1e4, factor: 1.0 }, Device::Cpu);

    let (mut q, mut k, mut v, mut r) = (host(&wide), host(&narrow), host(&narrow), host(&rs));
    let w = [&gains[0], &gains[1]];
    rope::forward([&mut q, &mut k, &mut v, &mut r], &qkv, &angles, w, heads, norm).unwrap();

    let [gqkv, gdq, gdk, gdv] = [&qkv, &dq, &dk, &dv].map(|t| upload(t, dtype, card));
    let [gr, gangles, gwq, gwk] = [&r, &angles, w[0], w[1]].map(|t| t.to(card).unwrap());
    let found = twice(&name("forward"), || {
        let [mut q, mut k, mut v] = [&wide, &narrow, &narrow].map(|shape| poisoned(shape, dtype, card));
        let mut r = poisoned(&rs, DType::F32, card);
        let out = [&mut q, &mut k, &mut v, &mut r];
        rope::forward(out, &gqkv, &gangles, [&gwq, &gwk], heads, norm).unwrap();
        [q, k, v, r]
    });
    for ((what, found), exact) in ["q", "k", "v", "r"].into_iter().zip(&found).zip([&q, &k, &v, &r]) {
        close(&name(what), found, exact);
    }

    for trained in [false, true] {
        let (mut dqkv, [mut dwq, mut dwk]) = (host(&all), before.clone());
        let dw = trained.then_some([&mut dwq, &mut dwk]);
        rope::backward(&mut dqkv, dw, [&dq, &dk, &dv], [&qkv, &r, &angles], w, heads, norm).unwrap();
        let found = twice(&name("backward"), || {
            let mut dqkv = poisoned(&all, dtype, card);
            let [mut dwq, mut dwk] = before.each_ref().map(|t| t.to(card).unwrap());
            let dw = trained.then_some([&mut dwq, &mut dwk]);
            let saved = [&gqkv, &gr, &gangles];
            rope::backward(&mut dqkv, dw, [&gdq, &gdk, &gdv], saved, [&gwq, &gwk], heads, norm).unwrap();
            [dqkv, dwq, dwk]
        });
        for ((what, found), exact) in ["dqkv", "dwq", "dwk"].into_iter().zip(&found).zip([&dqkv, &dwq, &dwk])
        {
            close(&name(what), found, exact);
        }
    }
}

#[test]
fn rope_forward_and_backward() {
    let Some(card) = card() else { return };
    for (i, case) in CASES.into_iter().enumerate() {
        let gain = [Gain::OnePlus, Gain::Plain][i % 2];
        for dtype in DTYPES {
            compare(case, Norm { gain, eps: 1e-6 }, dtype, card);
        }
    }
}
