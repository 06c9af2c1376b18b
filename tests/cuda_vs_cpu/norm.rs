//! RMSNorm, alone and after the addition to the stream.

use emlab::device::{DType, Device, Tensor};
use emlab::ops::norm::{self, Gain, Norm};

use super::budget::{Expected, U, floats};
use super::{DTYPES, card, download, host, poisoned, random, twice, upload};

/// Rows and width: odd ones, more rows than a card has under way 32 times, then the widths of the models.
pub const CASES: [[usize; 2]; 10] = [
    [5, 37],
    [3, 3],
    [7, 1000],
    [2, 5377],
    [5000, 1021],
    [33, 640],
    [600, 1152],
    [70, 2560],
    [300, 4096],
    [9, 5376],
];

/// A gain's factors.
fn gains(w: &Tensor, norm: Norm) -> Vec<f64> {
    w.f32().iter().map(|w| f64::from(norm.gain.of(*w))).collect()
}

/// y and r as they should be. r is the root of a mean of squares: half its relative error, and a few roundings.
pub fn forward(name: &str, x: &Tensor, w: &Tensor, norm: Norm, dtype: DType) -> [Expected; 2] {
    let [n, c] = x.dims().unwrap();
    let (mut y, mut r) = (host(&[n, c]), host(&[n]));
    norm::forward(&mut y, &mut r, x, w, norm).unwrap();
    let relative = floats(c) / 2.0 + 16.0 * U;
    let of = |t: &Tensor| t.f32().iter().map(|x| f64::from(x.abs()) * relative).collect::<Vec<f64>>();
    [
        Expected::new(format!("y of {name}"), &y, of(&y), dtype),
        Expected::new(format!("r of {name}"), &r, of(&r), DType::F32),
    ]
}

/// dx, the stream and dw as they should be; dw after both backwards. dx = r (dy g − x r² mean(dy g x)): the mean loses a
/// share of Σ|dy g x|, each of the two terms a few roundings.
pub fn backward(
    name: &str,
    [dy, x, stream]: [&Tensor; 3],
    [r, w, before]: [&Tensor; 3],
    norm: Norm,
    trained: bool,
    dtype: DType,
) -> [Expected; 3] {
    let [n, c] = x.dims().unwrap();
    let (mut dx, mut dstream, mut dw) = (host(&[n, c]), stream.clone(), before.clone());
    norm::backward(&mut dx, trained.then_some(&mut dw), dy, x, r, w, norm).unwrap();
    norm::add_backward(&mut dstream, trained.then_some(&mut dw), dy, x, r, w, norm).unwrap();
    let gains = gains(w, norm);
    let mut errors = Vec::with_capacity(n * c);
    let mut sums = vec![0.0; c];
    for (row, r) in r.f32().iter().enumerate() {
        let r = f64::from(*r);
        let at = |t: &Tensor, i: usize| f64::from(t.f32()[row * c + i]).abs();
        let product = |i: usize| at(dy, i) * gains[i].abs();
        let along: f64 = (0..c).map(|i| product(i) * at(x, i)).sum::<f64>() / c as f64;
        for (i, sum) in sums.iter_mut().enumerate() {
            errors.push(r * (16.0 * U * product(i) + at(x, i) * r * r * along * (floats(c) + 16.0 * U)));
            *sum += at(dy, i) * at(x, i) * r;
        }
    }
    let added = errors.iter().zip(stream.f32()).map(|(e, s)| e + 8.0 * U * f64::from(s.abs())).collect();
    let passes = if trained { 2 } else { 0 };
    let sums = sums.iter().zip(before.f32()).map(|(sum, b)| {
        floats(passes * n) * (f64::from(b.abs()) + passes as f64 * sum) * f64::from(u8::from(trained))
    });
    [
        Expected::new(format!("dx of {name}"), &dx, errors.clone(), dtype),
        Expected::new(format!("stream of {name}"), &dstream, added, dtype),
        Expected::new(format!("dw of {name}"), &dw, sums.collect(), DType::F32),
    ]
}

fn compare([n, c]: [usize; 2], norm: Norm, dtype: DType, card: Device) {
    let name = format!("{n} × {c}, {:?}", norm.gain);
    let make = |name: &str| random(name, &[n, c], dtype);
    let [x, delta, dy, stream] = ["x", "delta", "dy", "stream"].map(make);
    let [w, before] = ["w", "dw"].map(|name| random(name, &[c], DType::F32));
    let [gx, gdelta, gdy] = [&x, &delta, &dy].map(|t| upload(t, dtype, card));
    let gw = w.to(card).unwrap();

    let found = twice(&format!("forward of {name}"), || {
        let (mut y, mut r) = (poisoned(&[n, c], dtype, card), poisoned(&[n], DType::F32, card));
        norm::forward(&mut y, &mut r, &gx, &gw, norm).unwrap();
        [y, r]
    });
    for (expected, found) in forward(&name, &x, &w, norm, dtype).iter().zip(&found) {
        expected.holds(found);
    }

    // The norm is that of the sum as it was stored.
    let [gsum, gy, gr] = twice(&format!("add_forward of {name}"), || {
        let [mut sum, mut y] = [0, 1].map(|_| poisoned(&[n, c], dtype, card));
        let mut r = poisoned(&[n], DType::F32, card);
        norm::add_forward(&mut sum, &mut y, &mut r, &gx, &gdelta, &gw, norm).unwrap();
        [sum, y, r]
    });
    let (mut sum, mut y, mut r) = (host(&[n, c]), host(&[n, c]), host(&[n]));
    norm::add_forward(&mut sum, &mut y, &mut r, &x, &delta, &w, norm).unwrap();
    let error = sum.f32().iter().map(|x| 2.0 * U * f64::from(x.abs())).collect();
    Expected::new(format!("sum of {name}"), &sum, error, dtype).holds(&gsum);
    let sum = Tensor::from_f32(&[n, c], download(&gsum));
    let [expected_y, expected_r] = forward(&format!("the sum, {name}"), &sum, &w, norm, dtype);
    expected_y.holds(&gy);
    expected_r.holds(&gr);
    let r = expected_r.exact;

    for trained in [false, true] {
        let gr = r.to(card).unwrap();
        let found = twice(&format!("backward of {name}"), || {
            let (mut dx, mut stream) = (poisoned(&[n, c], dtype, card), upload(&stream, dtype, card));
            let mut dw = before.to(card).unwrap();
            norm::backward(&mut dx, trained.then_some(&mut dw), &gdy, &gsum, &gr, &gw, norm).unwrap();
            norm::add_backward(&mut stream, trained.then_some(&mut dw), &gdy, &gsum, &gr, &gw, norm).unwrap();
            [dx, stream, dw]
        });
        let expected = backward(&name, [&dy, &sum, &stream], [&r, &w, &before], norm, trained, dtype);
        for (expected, found) in expected.iter().zip(&found) {
            expected.holds(found);
        }
    }
}

#[test]
fn norm_forward_and_backward() {
    let Some(card) = card() else { return };
    for (i, case) in CASES.into_iter().enumerate() {
        let gain = [Gain::OnePlus, Gain::Plain][i % 2];
        for dtype in DTYPES {
            compare(case, Norm { gain, eps: 1e-6 }, dtype, card);
        }
    }
}
