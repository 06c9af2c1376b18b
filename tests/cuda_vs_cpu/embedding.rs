//! Look-up, its gradient, and the scattering of rows.

use emlab::device::{DType, Device, Tensor};
use emlab::ops::embedding;

use super::budget::{Expected, U, abs, floats};
use super::{DTYPES, agree, card, download, host, poisoned, random, twice, upload};

/// Rows, width, vocabulary.
pub const CASES: [[usize; 3]; 6] =
    [[50, 37, 11], [1, 640, 5], [300, 1152, 40], [1000, 64, 30], [257, 5, 300], [2000, 256, 700]];

/// Ids below `v`, some rows alike.
fn tokens(n: usize, v: usize) -> Tensor {
    let id = |i: usize| if i % 5 == 1 { 3 % v } else { i * 7919 % v };
    Tensor::from_u32(&[n], (0..n).map(|i| id(i) as u32).collect())
}

/// tokens, w, dx, and dw before the backward.
pub fn inputs([n, c, v]: [usize; 3], dtype: DType) -> [Tensor; 4] {
    let (w, dx) = (random("w", &[v, c], dtype), random("dx", &[n, c], dtype));
    [tokens(n, v), w, dx, random("dw", &[v, c], DType::F32)]
}

const SCALE: f32 = 1.7;

/// x and dw as they should be: x is one product, a row of dw a sum over the token's rows.
pub fn expected([tokens, w, dx, before]: [&Tensor; 4], dtype: DType) -> [Expected; 2] {
    let ([n, c], [v, _]) = (dx.dims().unwrap(), w.dims().unwrap());
    let name = |what: &str| format!("{what}, {n} rows of {v} × {c}");
    let (mut x, mut dw, mut sizes) = (host(&[n, c]), before.clone(), abs(before));
    embedding::forward(&mut x, tokens, w, SCALE).unwrap();
    let order = embedding::order(tokens.u32(), Device::Cpu).unwrap();
    embedding::backward(&mut dw, dx, [tokens, &order], SCALE).unwrap();
    embedding::backward(&mut sizes, &abs(dx), [tokens, &order], SCALE).unwrap();
    let mut counts = vec![0; v];
    tokens.u32().iter().for_each(|token| counts[*token as usize] += 1);
    let of_x = x.f32().iter().map(|x| 2.0 * U * f64::from(x.abs())).collect();
    let of_dw = sizes.f32().iter().enumerate().map(|(e, size)| match counts[e / c] {
        0 => 0.0,
        count => floats(count) * f64::from(*size),
    });
    let of_dw = of_dw.collect();
    [Expected::new(name("x"), &x, of_x, dtype), Expected::new(name("dw"), &dw, of_dw, DType::F32)]
}

fn compare(case: [usize; 3], dtype: DType, card: Device) {
    let [n, c, _] = case;
    let [tokens, w, dx, before] = inputs(case, dtype);
    let expected = expected([&tokens, &w, &dx, &before], dtype);
    let [w, dx] = [&w, &dx].map(|t| upload(t, dtype, card));
    let ids = tokens.to(card).unwrap();
    let order = embedding::order(tokens.u32(), card).unwrap();
    let found = twice(&expected[0].name, || {
        let (mut x, mut dw) = (poisoned(&[n, c], dtype, card), before.to(card).unwrap());
        embedding::forward(&mut x, &ids, &w, SCALE).unwrap();
        embedding::backward(&mut dw, &dx, [&ids, &order], SCALE).unwrap();
        [x, dw]
    });
    for (expected, found) in expected.iter().zip(&found) {
        expected.holds(found);
    }
}

#[test]
fn embedding_forward_and_backward() {
    let Some(card) = card() else { return };
    for case in CASES {
        for dtype in DTYPES {
            compare(case, dtype, card);
        }
    }
}

#[test]
fn rows_are_gathered_and_scattered() {
    let Some(card) = card() else { return };
    for dtype in DTYPES {
        for c in [37, 1152] {
            let rows = [2, 3, 17, 29];
            let mut sources = vec![embedding::NOWHERE; 30];
            for (i, row) in rows.iter().enumerate() {
                sources[*row] = i as u32;
            }
            let sources = Tensor::from_u32(&[30], sources);
            let values = random("values", &[4, c], dtype);
            let (mut exact, mut x) = (host(&[30, c]), poisoned(&[30, c], dtype, card));
            embedding::scatter(&mut exact, &values, &sources).unwrap();
            embedding::scatter(&mut x, &upload(&values, dtype, card), &sources.to(card).unwrap()).unwrap();
            assert_eq!(download(&x), exact.f32());
            let mut back = poisoned(&[4, c], dtype, card);
            let rows = Tensor::from_u32(&[4], rows.map(|row| row as u32).to_vec());
            embedding::forward(&mut back, &rows.to(card).unwrap(), &x, 1.0).unwrap();
            assert_eq!(download(&back), values.f32());
        }
    }
}

/// On the GPU an id that is out of range must not pass for a token.
#[test]
fn a_token_out_of_range_is_not_a_number() {
    let Some(card) = card() else { return };
    let (w, ids) = (random("w", &[7, 24], DType::F32), Tensor::from_u32(&[3], vec![6, 7, 0]));
    let mut x = poisoned(&[3, 24], DType::F32, card);
    embedding::forward(&mut x, &ids.to(card).unwrap(), &w.to(card).unwrap(), 1.0).unwrap();
    let x = download(&x);
    assert!(x[24..48].iter().all(|x| x.is_nan()));
    agree(
        "its neighbour",
        &Tensor::from_f32(&[24], x[48..].to_vec()).to(card).unwrap(),
        &w.f32()[..24],
        DType::F32,
    );
}
