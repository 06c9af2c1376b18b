//! `device::gemm` and `ops::linear`.

use std::ops::Range;

use emlab::device::gemm::{self, Part, View};
use emlab::device::philox::Key;
use emlab::device::product::{self, Store};
use emlab::device::{DType, Device, Tensor};
use emlab::ops::linear::{self, Adapter, Dropout, Gradients};

use super::{DTYPES, agree, card, download, poisoned, random, upload};

/// A matrix that lies somewhere inside a larger one, perhaps transposed.
struct Inside {
    host: Tensor,
    on_card: Tensor,
    from: [usize; 2],
    size: [usize; 2],
    transposed: bool,
}

impl Inside {
    fn new(
        name: &str,
        [rows, cols]: [usize; 2],
        transposed: bool,
        margin: usize,
        dtype: DType,
        card: Device,
    ) -> Self {
        let size = if transposed { [cols, rows] } else { [rows, cols] };
        // Past the range lie other numbers or the edge; with a margin of 8, rows in memory are 16-byte aligned.
        let pitch = (size[1] + 2 * margin).next_multiple_of(margin.max(1));
        let host = random(name, &[size[0] + 2, pitch], dtype);
        Self { on_card: upload(&host, dtype, card), host, from: [1, margin], size, transposed }
    }

    fn view(&self) -> View<'_> {
        let ranges = [0, 1].map(|axis| self.from[axis]..self.from[axis] + self.size[axis]);
        let view = View::new(&self.on_card).rows(ranges[0].clone()).columns(ranges[1].clone());
        if self.transposed { view.t() } else { view }
    }

    fn host_view(&self) -> product::View<'_, f32> {
        let [rows, cols] = [self.host.shape()[0], self.host.shape()[1]];
        let ranges = [0, 1].map(|axis| self.from[axis]..self.from[axis] + self.size[axis]);
        let view = product::View::new(self.host.f32(), rows, cols).rows(ranges[0].clone());
        let view = view.columns(ranges[1].clone());
        if self.transposed { view.t() } else { view }
    }
}

#[test]
fn products_of_every_order_and_alignment() {
    let Some(card @ Device::Cuda(gpu)) = card() else { return };
    let shapes = [(1, 8, 8), (65, 131, 77), (300, 264, 192), (257, 96, 1000), (600, 520, 136)];
    for (case, (m, n, k)) in shapes.into_iter().enumerate() {
        for order in 0..8 {
            for (margin, dtype) in [(8, DType::F32), (8, DType::Bf16), (3, DType::Bf16)] {
                let (k2, f32_out) = (24, order & 4 > 0);
                let inside = |name: &str, size, transposed| {
                    Inside::new(&format!("{name} {case}"), size, transposed, margin, dtype, card)
                };
                let (a_t, b_t) = (order & 1 > 0, order & 2 > 0);
                let (a, b) = (inside("a", [m, k], a_t), inside("b", [k, n], b_t));
                let (a2, b2) = (inside("a2", [m, k2], a_t), inside("b2", [k2, n], b_t));
                let (store, out) =
                    if f32_out { (Store::Accumulate, DType::F32) } else { (Store::Overwrite, dtype) };
                let before = random("c", &[m + 2, n + 16], out);
                let mut c = upload(&before, out, card);
                let part = Part {
                    second: Some([a2.view(), b2.view()]),
                    at: [1, 8],
                    ..Part::new(a.view(), b.view())
                };
                gemm::multiply(gpu, &mut c, store, 0.5, &[part]).unwrap();

                let mut exact = before.f32().to_vec();
                let mut sum = vec![0.0; m * n];
                for (x, y) in [(&a, &b), (&a2, &b2)] {
                    let sum = product::ViewMut::new(&mut sum, m, n);
                    product::multiply(sum, Store::Accumulate, 0.5, x.host_view(), y.host_view());
                }
                for (e, sum) in sum.into_iter().enumerate() {
                    let to = &mut exact[(1 + e / n) * (n + 16) + 8 + e % n];
                    *to = if f32_out { *to + sum } else { sum };
                }
                let kind = if f32_out { DType::F32 } else { dtype };
                agree(&format!("product {m}×{n}×{k}, order {order}, margin {margin}"), &c, &exact, kind);
            }
        }
    }
}

/// Tiles of one step each, stored faster than the copy engine takes them away, in an odd number of parts.
#[test]
fn many_short_tiles_leave_in_order() {
    let Some(card @ Device::Cuda(gpu)) = card() else { return };
    let (m, k) = (150_016, 64);
    for (n, dtype) in [(32, DType::F32), (96, DType::F32), (160, DType::F32), (64, DType::Bf16)] {
        let a = Inside::new("a", [m, k], true, 0, DType::Bf16, card);
        let b = Inside::new("b", [k, n], false, 0, DType::Bf16, card);
        let mut exact = vec![0.0; m * n];
        let whole = product::ViewMut::new(&mut exact, m, n);
        product::multiply(whole, Store::Overwrite, 1.0, a.host_view(), b.host_view());
        let mut first: Option<Vec<f32>> = None;
        for _ in 0..4 {
            let mut c = Tensor::zeros_on(card, dtype, &[m, n]).unwrap();
            let store = if dtype == DType::F32 { Store::Accumulate } else { Store::Overwrite };
            gemm::multiply(gpu, &mut c, store, 1.0, &[Part::new(a.view(), b.view())]).unwrap();
            agree(&format!("{m} × {n} over {k}"), &c, &exact, dtype);
            let found = download(&c);
            assert!(first.get_or_insert_with(|| found.clone()) == &found, "{n} columns differ the next time");
        }
    }
}

/// A linear map and its adapters.
struct Case {
    n: usize,
    inputs: usize,
    outputs: usize,
    segments: Vec<Range<usize>>,
    rank: usize,
    dropout: Option<Dropout>,
}

impl Case {
    fn new(n: usize, inputs: usize, outputs: usize, segments: &[Range<usize>], rank: usize) -> Self {
        Self { n, inputs, outputs, segments: segments.to_vec(), rank, dropout: None }
    }

    fn dropped(self) -> Self {
        Self { dropout: Some(Dropout { p: 0.3, key: Key::new(1, &["dropout"]), map: 7 }), ..self }
    }

    fn adapter<'a>(&'a self, a: &'a Tensor, b: &'a Tensor) -> Option<Adapter<'a>> {
        let one = Adapter { a, b, segments: &self.segments, scale: 1.7, dropout: self.dropout };
        (!self.segments.is_empty()).then_some(one)
    }

    fn name(&self) -> String {
        let Self { n, inputs, outputs, segments, rank, dropout } = self;
        let dropout = if dropout.is_some() { ", dropout" } else { "" };
        format!("linear {n}×{inputs}→{outputs} {segments:?} rank {rank}{dropout}")
    }
}

fn cases() -> Vec<Case> {
    let qkv = [0..2048, 2048..3072, 3072..4096];
    let middle = std::iter::once(136..208).collect::<Vec<_>>();
    vec![
        Case::new(37, 75, 64, &[0..33, 40..61], 3),
        Case::new(37, 75, 64, &[0..33, 40..61], 3).dropped(),
        Case::new(300, 200, 288, &[0..136, 136..208, 208..288], 8),
        Case::new(300, 200, 288, &middle, 8).dropped(),
        Case::new(300, 128, 256, &[0..128, 128..256], 4),
        // Segments that begin between multiples of 16 bytes.
        Case::new(300, 128, 280, &[0..33, 33..100, 100..280], 8),
        Case::new(300, 128, 512, &[0..250, 250..512], 36),
        Case::new(5, 256, 512, &[0..128, 128..512], 16),
        Case::new(200, 256, 512, &[], 0),
        // Qwen3-0.6B's q|k|v, and Gemma 3 270M's gate|up.
        Case::new(384, 1024, 4096, &qkv, 32),
        Case::new(384, 1024, 4096, &qkv[1..2], 32),
        Case::new(384, 1024, 4096, &qkv, 32).dropped(),
        Case::new(100, 1024, 4096, &qkv, 32),
        Case::new(700, 640, 4096, &[0..2048, 2048..4096], 64),
    ]
}

#[test]
fn forward_and_backward() {
    let Some(card) = card() else { return };
    for case in cases() {
        for dtype in DTYPES {
            compare(&case, dtype, card);
        }
    }
}

fn compare(case: &Case, dtype: DType, card: Device) {
    // Shown if the test fails.
    eprintln!("{} in {}", case.name(), dtype.name());
    let (n, i, o, width) = (case.n, case.inputs, case.outputs, case.segments.len() * case.rank);
    let rows: usize = case.segments.iter().map(ExactSizeIterator::len).sum();
    let make = |name: &str, shape: &[usize]| random(name, shape, dtype);
    let (x, w, dy) = (make("x", &[n, i]), make("w", &[o, i]), make("dy", &[n, o]));
    let (a, b) = (make("a", &[width, i]), make("b", &[rows, case.rank]));
    let before = [("dw", vec![o, i]), ("da", vec![width, i]), ("db", vec![rows, case.rank])]
        .map(|(name, shape)| random(name, &shape, DType::F32));

    // The definition.
    let host = |shape: &[usize]| Tensor::from_f32(shape, vec![f32::NAN; shape.iter().product()]);
    let (mut y, mut s, mut dx, mut ds) = (host(&[n, o]), Tensor::empty(), host(&[n, i]), Tensor::empty());
    linear::forward(&mut y, &mut s, &x, &w, case.adapter(&a, &b)).unwrap();
    let [mut dw, mut da, mut db] = before.clone();
    let adapter = (!case.segments.is_empty()).then_some([&mut da, &mut db]);
    let gradients = Gradients { w: Some(&mut dw), adapter };
    linear::backward(&mut dx, &mut ds, gradients, &dy, [&x, &s], &w, case.adapter(&a, &b)).unwrap();

    // The kernels, twice.
    let [x, w, dy, a, b] = [&x, &w, &dy, &a, &b].map(|t| upload(t, dtype, card));
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mut s = Tensor::empty_on(card, dtype);
        let (mut on_y, mut on_dx) = (poisoned(&[n, o], dtype, card), poisoned(&[n, i], dtype, card));
        linear::forward(&mut on_y, &mut s, &x, &w, case.adapter(&a, &b)).unwrap();
        let [mut on_dw, mut on_da, mut on_db] = before.each_ref().map(|t| t.to(card).unwrap());
        let mut ds = Tensor::empty_on(card, dtype);
        let adapter = (!case.segments.is_empty()).then_some([&mut on_da, &mut on_db]);
        let gradients = Gradients { w: Some(&mut on_dw), adapter };
        linear::backward(&mut on_dx, &mut ds, gradients, &dy, [&x, &s], &w, case.adapter(&a, &b)).unwrap();
        runs.push([on_y, on_dx, on_dw, on_da, on_db]);
    }
    let exact = [&y, &dx, &dw, &da, &db];
    let kinds = [dtype, dtype, DType::F32, dtype, dtype];
    for (index, name) in ["y", "dx", "dw", "da", "db"].into_iter().enumerate() {
        let name = format!("{}: {name}", case.name());
        if exact[index].is_empty() {
            continue;
        }
        agree(&name, &runs[0][index], exact[index].f32(), kinds[index]);
        assert_eq!(download(&runs[0][index]), download(&runs[1][index]), "{name}: the second time");
    }
}

#[test]
fn logits_stay_float() {
    let Some(card) = card() else { return };
    for n in [3, 300] {
        let (x, w) = (random("x", &[n, 640], DType::Bf16), random("w", &[5000, 640], DType::Bf16));
        let mut exact = Tensor::from_f32(&[n, 5000], vec![0.0; n * 5000]);
        linear::forward(&mut exact, &mut Tensor::empty(), &x, &w, None).unwrap();
        let mut logits = poisoned(&[n, 5000], DType::F32, card);
        let [x, w] = [&x, &w].map(|t| upload(t, DType::Bf16, card));
        linear::forward(&mut logits, &mut Tensor::empty_on(card, DType::Bf16), &x, &w, None).unwrap();
        agree(&format!("{n} rows of logits"), &logits, exact.f32(), DType::F32);
    }
}

/// What sampling rests on: a sample's text does not depend on the batch it shares.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let Some(card) = card() else { return };
    for (dtype, rank, inputs, outputs) in
        [(DType::Bf16, 32, 1024, 1536), (DType::Bf16, 4, 1032, 520), (DType::F32, 8, 200, 333)]
    {
        let segments = [0..outputs / 2, outputs / 2..outputs];
        let make = |name: &str, shape: &[usize]| random(name, shape, dtype);
        let x = make("x", &[256, inputs]);
        let [w, a, b] =
            [make("w", &[outputs, inputs]), make("a", &[2 * rank, inputs]), make("b", &[outputs, rank])]
                .map(|t| upload(&t, dtype, card));
        let run = |n: usize| {
            let x = Tensor::from_f32(&[n, inputs], x.f32()[..n * inputs].to_vec());
            let (x, mut y) = (upload(&x, dtype, card), poisoned(&[n, outputs], dtype, card));
            let adapter = Adapter { a: &a, b: &b, segments: &segments, scale: 0.7, dropout: None };
            linear::forward(&mut y, &mut Tensor::empty_on(card, dtype), &x, &w, Some(adapter)).unwrap();
            download(&y)
        };
        let all = run(256);
        for n in [1, 3, 16, 64, 100, 128, 200] {
            assert_eq!(run(n), all[..n * outputs], "{n} rows of 256, {} rank {rank}", dtype.name());
        }
    }
}
