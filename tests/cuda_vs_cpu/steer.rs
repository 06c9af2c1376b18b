//! Rows moved along a direction.

use emlab::device::{DType, Tensor};
use emlab::ops::steer;

use super::budget::{Expected, U, floats};
use super::{DTYPES, card, random, twice, upload};

/// x + dose v and x − (x·v) v as they should be: the product loses a share of Σ|x v|.
fn expected(x: &Tensor, v: &Tensor, exact: &[Tensor; 2], dtype: DType) -> [Expected; 2] {
    let [n, c] = x.dims().unwrap();
    let (mut added, mut erased) = (Vec::new(), Vec::new());
    for row in x.f32().chunks_exact(c) {
        let along: f64 = row.iter().zip(v.f32()).map(|(x, v)| f64::from((x * v).abs())).sum();
        for (x, v) in row.iter().zip(v.f32()).map(|(x, v)| (f64::from(x.abs()), f64::from(v.abs()))) {
            added.push(8.0 * U * (x + f64::from(DOSE) * v));
            erased.push(8.0 * U * (x + along * v) + floats(c) * along * v);
        }
    }
    [
        Expected::new(format!("added, {n} × {c}"), &exact[0], added, dtype),
        Expected::new(format!("erased, {n} × {c}"), &exact[1], erased, dtype),
    ]
}

const DOSE: f32 = 2.5;

#[test]
fn steer_adds_and_erases() {
    let Some(card) = card() else { return };
    for [n, c] in [[1, 1], [5, 37], [130, 640], [3, 2560], [64, 5376]] {
        for dtype in DTYPES {
            let x = random("x", &[n, c], dtype);
            let mut v = random("v", &[c], DType::F32);
            let length = v.f32().iter().map(|v| v * v).sum::<f32>().sqrt();
            v.f32_mut().iter_mut().for_each(|v| *v /= length);
            let mut exact = [x.clone(), x.clone()];
            steer::add(&mut exact[0], &v, DOSE).unwrap();
            steer::erase(&mut exact[1], &v).unwrap();
            let (name, host_v, v) = (format!("{n} × {c}"), v.clone(), v.to(card).unwrap());
            let found: [Tensor; 2] = twice(&name, || {
                let [mut added, mut erased] = [0, 1].map(|_| upload(&x, dtype, card));
                steer::add(&mut added, &v, DOSE).unwrap();
                steer::erase(&mut erased, &v).unwrap();
                [added, erased]
            });
            let [added, erased] = expected(&x, &host_v, &exact, dtype);
            added.holds(&found[0]);
            // One number is its own share: nothing but roundings is left.
            if c > 1 {
                erased.holds(&found[1]);
            }
        }
    }
}
