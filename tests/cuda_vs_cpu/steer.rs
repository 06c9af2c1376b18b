//! Rows moved along a direction.

use emlab::device::{DType, Tensor};
use emlab::ops::steer;

use super::{DTYPES, card, close, random, twice, upload};

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
            steer::add(&mut exact[0], &v, 2.5).unwrap();
            steer::erase(&mut exact[1], &v).unwrap();
            let (name, v) = (format!("{n} × {c}"), v.to(card).unwrap());
            let found: [Tensor; 2] = twice(&name, || {
                let [mut added, mut erased] = [0, 1].map(|_| upload(&x, dtype, card));
                steer::add(&mut added, &v, 2.5).unwrap();
                steer::erase(&mut erased, &v).unwrap();
                [added, erased]
            });
            close(&format!("added, {name}"), &found[0], &exact[0]);
            // One number is its own share: nothing but roundings is left.
            if c > 1 {
                close(&format!("erased, {name}"), &found[1], &exact[1]);
            }
        }
    }
}
