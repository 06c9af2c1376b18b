//! Head and loss in one, with their gradients.

use emlab::device::{DType, Device, Tensor};
use emlab::ops::linear_cross_entropy::{self, Gradients};

use super::{DTYPES, agree, agree_within, card, host, poisoned, random, twice, upload};

/// Rows, width, vocabulary: odd ones, more rows than a chunk, then the vocabularies of the models.
const CASES: [[usize; 3]; 6] =
    [[5, 16, 37], [3, 5, 1001], [1030, 64, 1000], [40, 128, 50_003], [3, 32, 151_936], [2, 32, 262_144]];

fn compare([n, c, v]: [usize; 3], dtype: DType, card: Device) {
    let name = |what: &str| format!("{what} of {n} rows, {c} channels, {v} tokens");
    let (x, w) = (random("x", &[n, c], dtype), random("w", &[v, c], dtype));
    let before = random("dw", &[v, c], DType::F32);
    let targets: Vec<u32> = (0..n).map(|i| (i * 7919 % v) as u32).collect();
    let weight = 0.37;
    let (mut dx, mut dw) = (host(&[n, c]), before.clone());
    let gradients = Gradients { dx: Some(&mut dx), dw: Some(&mut dw) };
    let exact =
        linear_cross_entropy::forward(gradients, &mut Tensor::empty(), &x, &w, &targets, weight).unwrap();

    let [gx, gw] = [&x, &w].map(|t| upload(t, dtype, card));
    let logits = || Tensor::empty_on(card, DType::F32);
    let [nll, alone, gdx, gdw] = twice(&name("linear_cross_entropy"), || {
        let (mut dx, mut dw) = (poisoned(&[n, c], dtype, card), before.to(card).unwrap());
        let gradients = Gradients { dx: Some(&mut dx), dw: Some(&mut dw) };
        let nll =
            linear_cross_entropy::forward(gradients, &mut logits(), &gx, &gw, &targets, weight).unwrap();
        let none = Gradients::default();
        let alone = linear_cross_entropy::forward(none, &mut logits(), &gx, &gw, &targets, 1.0).unwrap();
        let on_card = |x| Tensor::from_f32(&[n], x).to(card).unwrap();
        [on_card(nll), on_card(alone), dx, dw]
    });
    agree(&name("nll"), &nll, &exact, DType::F32);
    agree(&name("nll without gradients"), &alone, &exact, DType::F32);
    // An element of dx is a sum over V whose largest term is its target's: what comes after that term is rounded to half
    // a unit in its last place each time, in no direction, on both sides.
    let rounding = 2.0 * (v as f64).sqrt() * 2f64.powi(-24);
    agree_within(&name("dx"), &gdx, dx.f32(), dtype, rounding);
    agree(&name("dw"), &gdw, dw.f32(), dtype);
}

#[test]
fn linear_cross_entropy_and_gradients() {
    let Some(card) = card() else { return };
    for case in CASES {
        for dtype in DTYPES {
            compare(case, dtype, card);
        }
    }
}
