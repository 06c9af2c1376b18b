//! The comparison itself, anywhere: honest roundings pass, and one wrong element, a wrong tail row and a wrong border of
//! a document each fail, and are named. Some shapes of each op: on a card every comparison asserts for its own shape that
//! one wrong element would be seen.

use emlab::device::DType;
use emlab::ops::glu::Activation;
use emlab::ops::norm::{Gain, Norm};

use super::attention::{self, NARROW, WIDE};
use super::budget::Expected;
use super::honest::narrow;
use super::{DTYPES, INSIDE, distance, embedding, glu, linear, linear_cross_entropy, norm, random, rope};

/// The exact result as a kernel without any error of its own would store it.
fn stored(expected: &Expected) -> Vec<f32> {
    let exact = expected.exact.f32();
    if expected.stored == DType::Bf16 { exact.iter().map(|x| narrow(*x)).collect() } else { exact.to_vec() }
}

fn passes(expected: &Expected, found: &[f32]) {
    if let Err(why) = expected.check(found) {
        panic!("a correct result fails: {why}");
    }
}

/// Asserts that the check of `found` fails and names row and column.
fn fails(expected: &Expected, found: &[f32], row: usize, column: usize) {
    let why =
        expected.check(found).expect_err(&format!("{}: row {row}, column {column} is wrong", expected.name));
    assert!(
        why.contains(&format!("row {row} column {column},")),
        "row {row} column {column} is wrong: {why}"
    );
}

/// Plants a wrong element, and asserts that it is named; see [`Expected::sees_one_wrong_element`] for many more.
fn one_wrong_element_fails(expected: &Expected) {
    let mut found = stored(expected);
    passes(expected, &found);
    expected.sees_one_wrong_element();
    let width = *expected.exact.shape().last().unwrap();
    let at = (0..found.len()).max_by(|a, b| found[*a].abs().total_cmp(&found[*b].abs())).unwrap();
    found[at] = -found[at];
    fails(expected, &found, at / width, at % width);
}

const EPS: f32 = 1e-6;

#[test]
fn one_wrong_element_fails_in_rows_that_are_normalised() {
    for dtype in DTYPES {
        for (i, [n, c]) in norm::CASES.into_iter().enumerate().filter(|(_, [n, _])| *n < 1000) {
            let norm = Norm { gain: [Gain::OnePlus, Gain::Plain][i % 2], eps: EPS };
            let make = |name: &str| random(name, &[n, c], dtype);
            let [x, dy, stream] = ["x", "dy", "stream"].map(make);
            let [w, before] = ["w", "dw"].map(|name| random(name, &[c], DType::F32));
            let forward = norm::forward("x", &x, &w, norm, dtype);
            let saved = [&forward[1].exact, &w, &before];
            let backward = norm::backward("x", [&dy, &x, &stream], saved, norm, true, dtype);
            forward.iter().chain(&backward).for_each(one_wrong_element_fails);
        }
        for (i, case) in rope::CASES.into_iter().enumerate().take(6) {
            let norm = Norm { gain: [Gain::OnePlus, Gain::Plain][i % 2], eps: EPS };
            let inputs = rope::Inputs::new(case, norm, dtype);
            let forward = inputs.forward();
            let backward = inputs.backward(&forward[3].exact, true);
            forward.iter().chain(&backward).for_each(one_wrong_element_fails);
        }
    }
}

#[test]
fn one_wrong_element_fails_in_glu_and_embedding() {
    for dtype in DTYPES {
        for case in glu::CASES {
            for activation in [Activation::GeluTanh, Activation::Silu] {
                let [x, dy] = glu::inputs(case, dtype);
                let expected = glu::expected(case, activation, [&x, &dy], dtype);
                expected.iter().for_each(one_wrong_element_fails);
            }
        }
        for case in embedding::CASES {
            let inputs = embedding::inputs(case, dtype);
            embedding::expected(inputs.each_ref(), dtype).iter().for_each(one_wrong_element_fails);
        }
    }
}

#[test]
fn one_wrong_element_fails_in_products() {
    for case in linear::cases().into_iter().take(9) {
        for dtype in DTYPES {
            let expected = linear::Inputs::new(case.clone(), dtype).expected();
            expected.iter().filter(|e| !e.exact.is_empty()).for_each(one_wrong_element_fails);
        }
    }
    for case in linear_cross_entropy::CASES.into_iter().take(2).chain([[130, 64, 1000], [2, 32, 151_936]]) {
        for dtype in DTYPES {
            let expected = linear_cross_entropy::Inputs::new(case, dtype).expected(dtype);
            expected.iter().for_each(one_wrong_element_fails);
        }
    }
}

#[test]
fn one_wrong_element_fails_in_attention() {
    for case in NARROW.iter().chain(&WIDE[..3]) {
        let inputs = attention::Inputs::new(*case, DType::Bf16);
        let forward = inputs.forward();
        let backward = inputs.backward([&forward[0].exact, &forward[1].exact]);
        forward.iter().chain(&backward).for_each(one_wrong_element_fails);
    }
}

/// What the Frobenius ratio alone forgives.
#[test]
fn the_norm_of_a_large_result_does_not_see_one_element() {
    let x = random("x", &[600, 1152], DType::Bf16);
    let w = random("w", &[1152], DType::F32);
    let [y, _] = norm::forward("x", &x, &w, Norm { gain: Gain::OnePlus, eps: EPS }, DType::Bf16);
    let mut found = stored(&y);
    let limit = 2.0 * distance(&found, y.exact.f32()) + INSIDE;
    let at = 300 * 1152 + 77;
    found[at] = -found[at];
    assert!(distance(&found, y.exact.f32()) < limit);
    fails(&y, &found, 300, 77);
}

/// The last row of a result, computed from the row before it.
#[test]
fn a_wrong_tail_row_fails() {
    let case = linear::cases().swap_remove(2);
    for expected in linear::Inputs::new(case, DType::Bf16).expected() {
        let [n, width] = expected.exact.dims().unwrap();
        let mut found = stored(&expected);
        found.copy_within((n - 2) * width..(n - 1) * width, (n - 1) * width);
        let why = expected.check(&found).unwrap_err();
        assert!(why.contains(&format!("in rows {} to {} of {n};", n - 1, n - 1)), "{why}");
    }
    let inputs = attention::Inputs::new(WIDE[1], DType::Bf16);
    let [out, _] = inputs.forward();
    let (n, width) = (inputs.rows(), out.exact.shape()[1]);
    let mut found = stored(&out);
    found.copy_within((n - 2) * width..(n - 1) * width, (n - 1) * width);
    let why = out.check(&found).unwrap_err();
    assert!(why.contains(&format!("in rows {} to {} of {n};", n - 1, n - 1)), "{why}");
}

/// Each document's first row seeing the last key of the document before it; a window one key too wide, or too narrow.
#[test]
fn a_wrong_border_fails() {
    for case in &WIDE[..3] {
        let inputs = attention::Inputs::new(*case, DType::Bf16);
        let [out, lse] = inputs.forward();
        let width = out.exact.shape()[1];
        for border in 1..inputs.starts.len() - 1 {
            let mut joined = attention::Inputs::new(*case, DType::Bf16);
            let first = joined.starts[border] as usize;
            // The document begins a row earlier.
            joined.starts[border] -= 1;
            joined.starts.dedup();
            let [wrong, _] = joined.forward();
            let mut found = stored(&out);
            let own = first * width..(first + 1) * width;
            found[own.clone()].copy_from_slice(&stored(&wrong)[own]);
            let why = out.check(&found).unwrap_err();
            assert!(why.contains(&format!("in rows {first} to {first} of")), "{why}");
        }
        let Some(window) = case.2 else { continue };
        for window in [window - 1, window + 1] {
            let shifted = attention::Inputs::new((case.0, case.1, Some(window)), DType::Bf16);
            let [wrong, wrong_lse] = shifted.forward();
            assert!(out.check(&stored(&wrong)).is_err(), "{}: a window of {window}", out.name);
            assert!(lse.check(&stored(&wrong_lse)).is_err(), "{}: a window of {window}", lse.name);
        }
    }
}

/// Sums from the last term to the first, in f32: as good as any order.
fn backwards(terms: impl DoubleEndedIterator<Item = f32>) -> f32 {
    terms.rev().sum()
}

#[test]
fn honest_products_pass() {
    for (case, dtype) in
        linear::cases().into_iter().take(6).flat_map(|case| DTYPES.map(|d| (case.clone(), d)))
    {
        if case.has_dropout() {
            continue;
        }
        let inputs = linear::Inputs::new(case, dtype);
        let [y, ..] = &inputs.expected()[..] else { panic!("y first") };
        passes(y, &inputs.other_order(dtype));
    }
}

#[test]
fn honest_norms_pass() {
    let norm = Norm { gain: Gain::Plain, eps: EPS };
    for dtype in DTYPES {
        for [n, c] in norm::CASES.into_iter().filter(|[n, _]| *n < 1000) {
            let (x, w) = (random("x", &[n, c], dtype), random("w", &[c], DType::F32));
            let [y, r] = norm::forward("x", &x, &w, norm, dtype);
            let row = |row: &[f32]| {
                let mean = backwards(row.iter().map(|x| x * x)) / c as f32;
                1.0 / (mean + EPS).sqrt()
            };
            let other: Vec<f32> = x.f32().chunks_exact(c).map(row).collect();
            passes(&r, &other);
            let y_of = |(e, x): (usize, &f32)| other[e / c] * w.f32()[e % c] * x;
            let found = x.f32().iter().enumerate().map(y_of);
            let found: Vec<f32> =
                if dtype == DType::Bf16 { found.map(narrow).collect() } else { found.collect() };
            passes(&y, &found);
        }
    }
}

/// Attention as the kernels compute it: tiles of keys, a running maximum, p and ds rounded to bf16.
#[test]
fn honest_attention_passes() {
    for case in WIDE.iter().take(2) {
        let inputs = attention::Inputs::new(*case, DType::Bf16);
        let [out, lse] = inputs.forward();
        let [found_out, found_lse] = inputs.tiled();
        passes(&out, &found_out);
        passes(&lse, &found_lse);
        let backward = inputs.backward([&out.exact, &lse.exact]);
        for (expected, found) in backward.iter().zip(inputs.tiled_backward([&out.exact, &lse.exact])) {
            passes(expected, &found);
        }
    }
}

#[test]
fn a_failure_names_op_shape_type_place_and_budget() {
    let x = random("x", &[5, 37], DType::Bf16);
    let w = random("w", &[37], DType::F32);
    let [y, _] = norm::forward("5 × 37", &x, &w, Norm { gain: Gain::OnePlus, eps: EPS }, DType::Bf16);
    let mut found = stored(&y);
    found[3 * 37 + 8] = 9.0;
    let why = y.check(&found).unwrap_err();
    for part in [
        "y of 5 × 37",
        "bf16",
        "1 of 185 elements",
        "rows 3 to 3 of 5",
        "row 3 column 8, is 9, expected",
        "±",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
}
