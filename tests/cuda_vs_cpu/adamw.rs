//! The optimiser's step and the square of the gradient's norm; casts and sums of whole tensors.

use emlab::device::{DType, Tensor, elementwise};
use emlab::ops::adamw::{self, AdamW, Trained};

use super::budget::{Expected, U};
use super::{DTYPES, card, download, poisoned, random, upload};

const SIZES: [usize; 6] = [1, 5, 4096, 4099, 8191, 100_003];

/// What p, m and v of element `e` may be off by after a step: a few roundings each, and m's error by way of m / √v.
fn step_errors(old: &[Tensor; 5], new: &[Tensor; 5], adamw: AdamW, e: usize) -> [f64; 3] {
    let size = |tensors: &[Tensor; 5], k: usize| f64::from(tensors[k].f32()[e]).abs();
    let [first, second] = adamw.betas.map(|beta| 1.0 - f64::from(beta).powi(adamw.step as i32));
    let rate = f64::from(adamw.lr) / first / ((size(new, 2) / second).sqrt() + f64::from(adamw.eps));
    let m = 8.0 * U * (size(old, 1) + size(old, 3));
    let p = 8.0 * U * (size(old, 0) + size(new, 0)) + rate * (m + 16.0 * U * size(new, 1));
    [p, m, 16.0 * U * size(new, 2)]
}

#[test]
fn adamw_steps() {
    let Some(card) = card() else { return };
    let adamw = AdamW { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1, step: 7 };
    let make = |what: &str, n: usize| random(&format!("{what} {n}"), &[n], DType::F32);
    // p, m, v, g and the copy of every size.
    let all: Vec<[Tensor; 5]> = SIZES
        .iter()
        .map(|n| {
            let v = make("v", *n).f32().iter().map(|x| x * x * 0.01).collect();
            let copy = Tensor::zeros(DType::Bf16, &[*n]);
            [make("p", *n), make("m", *n), Tensor::from_f32(&[*n], v), make("g", *n), copy]
        })
        .collect();
    let step = |all: &mut [[Tensor; 5]]| {
        let mut trained: Vec<Trained> = all
            .iter_mut()
            .enumerate()
            .map(|(i, [p, m, v, g, copy])| Trained {
                p,
                m,
                v,
                g,
                copy: (i % 3 != 0).then_some(copy),
                decays: i % 2 == 0,
            })
            .collect();
        adamw::step(&mut trained, 0.7, adamw).unwrap();
    };
    let mut exact = all.clone();
    step(&mut exact);
    let mut found: Vec<[Tensor; 5]> =
        all.iter().map(|tensors| tensors.each_ref().map(|t| t.to(card).unwrap())).collect();
    step(&mut found);
    for (i, (exact, found)) in exact.iter().zip(&found).enumerate() {
        for (name, k) in [("p", 0), ("m", 1), ("v", 2)] {
            let error = (0..SIZES[i]).map(|e| step_errors(&all[i], exact, adamw, e)[k]).collect();
            Expected::new(format!("{name} of {} elements", SIZES[i]), &exact[k], error, DType::F32)
                .holds(&found[k]);
        }
        assert!(download(&found[3]).iter().all(|g| g.to_bits() == 0), "the gradient is cleared");
        // The copy is the rounded parameter, or as it was.
        let rounded = match i % 3 {
            0 => Tensor::zeros(DType::Bf16, &[SIZES[i]]),
            _ => Tensor::from_f32(&[SIZES[i]], download(&found[0])).to_bf16(),
        };
        assert_eq!(download(&found[4]), rounded.to_f32().f32());
    }
}

#[test]
fn square_sums_in_double_precision() {
    let Some(card) = card() else { return };
    let all: Vec<Tensor> = SIZES.iter().map(|n| random(&format!("g {n}"), &[*n], DType::F32)).collect();
    let exact = adamw::square_sum(&all.iter().collect::<Vec<_>>()).unwrap();
    let on_card: Vec<Tensor> = all.iter().map(|t| t.to(card).unwrap()).collect();
    let found = adamw::square_sum(&on_card.iter().collect::<Vec<_>>()).unwrap();
    assert!((found - exact).abs() < 1e-12 * exact, "{found}, expected {exact}");
    let again = adamw::square_sum(&on_card.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(found.to_bits(), again.to_bits());
}

#[test]
fn whole_tensors() {
    let Some(card) = card() else { return };
    for n in SIZES {
        let x = random("x", &[n], DType::F32);
        let (mut narrow, mut wide) = (poisoned(&[n], DType::Bf16, card), poisoned(&[n], DType::F32, card));
        elementwise::cast(&mut narrow, &x.to(card).unwrap()).unwrap();
        elementwise::cast(&mut wide, &narrow).unwrap();
        assert_eq!(download(&narrow), x.to_bf16().to_f32().f32());
        assert_eq!(download(&wide), download(&narrow));
        for dtype in DTYPES {
            let (a, b) = (random("a", &[n], dtype), random("b", &[n], dtype));
            let sum = a.f32().iter().zip(b.f32()).map(|(a, b)| a + 0.3 * b).collect();
            let error = a.f32().iter().zip(b.f32()).map(|(a, b)| 4.0 * U * f64::from(a.abs() + b.abs()));
            let expected = Expected::new("sum", &Tensor::from_f32(&[n], sum), error.collect(), dtype);
            let mut found = upload(&a, dtype, card);
            elementwise::add(&mut found, &upload(&b, dtype, card), 0.3).unwrap();
            expected.holds(&found);
            elementwise::fill(&mut found, 0.25).unwrap();
            assert!(download(&found).iter().all(|x| *x == 0.25));
        }
    }
}
