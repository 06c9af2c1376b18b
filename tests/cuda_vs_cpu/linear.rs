//! `device::gemm` and `ops::linear`.

use std::ops::Range;

use emlab::device::gemm::{self, Part, View};
use emlab::device::philox::Key;
use emlab::device::product::{self, Store};
use emlab::device::{DType, Device, Tensor};
use emlab::ops::linear::{self, Adapter, Dropout, Gradients};

use super::budget::{Expected, U, abs, add_product, handed_on, into, into_rows, matrix, products};
use super::{DTYPES, card, download, poisoned, random, upload};

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
        self.view_of(&self.host)
    }

    /// The same range of a matrix like `host`.
    fn view_of<'a>(&self, host: &'a Tensor) -> product::View<'a, f32> {
        let [rows, cols] = [host.shape()[0], host.shape()[1]];
        let ranges = [0, 1].map(|axis| self.from[axis]..self.from[axis] + self.size[axis]);
        let view = product::View::new(host.f32(), rows, cols).rows(ranges[0].clone());
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
                let (mut sum, mut sizes) = (vec![0.0; m * n], vec![0.0; m * n]);
                // The second term ends within a matrix: it may be added in a launch of its own, to what the first one stored.
                let mut stored_before = vec![0.0; m * n];
                for (x, y) in [(&a, &b), (&a2, &b2)] {
                    stored_before.copy_from_slice(&sum);
                    let sum = product::ViewMut::new(&mut sum, m, n);
                    add_product(sum, 0.5, x.host_view(), y.host_view());
                    let (size_x, size_y) = (abs(&x.host), abs(&y.host));
                    let sizes = product::ViewMut::new(&mut sizes, m, n);
                    add_product(sizes, 0.5, x.view_of(&size_x), y.view_of(&size_y));
                }
                // What lies around the product stays as it was.
                let mut error = vec![0.0; exact.len()];
                for (e, (sum, size)) in sum.into_iter().zip(sizes).enumerate() {
                    let between = handed_on(out) * f64::from(stored_before[e]).abs();
                    let at = (1 + e / n) * (n + 16) + 8 + e % n;
                    let old = if f32_out { exact[at] } else { 0.0 };
                    exact[at] = old + sum;
                    error[at] = products(k + k2, dtype) * f64::from(old.abs() + size) + between;
                }
                let kind = if f32_out { DType::F32 } else { dtype };
                let name = format!("product {m}×{n}×{k}, order {order}, margin {margin}");
                let exact = Tensor::from_f32(&[m + 2, n + 16], exact);
                Expected::new(name, &exact, error, kind).holds(&c);
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
        let (mut sizes, size_a, size_b) = (vec![0.0; m * n], abs(&a.host), abs(&b.host));
        let whole = product::ViewMut::new(&mut sizes, m, n);
        add_product(whole, 1.0, a.view_of(&size_a), b.view_of(&size_b));
        let error = sizes.iter().map(|size| products(k, DType::Bf16) * f64::from(*size)).collect();
        let expected =
            Expected::new(format!("{m} × {n} over {k}"), &Tensor::from_f32(&[m, n], exact), error, dtype);
        let mut first: Option<Vec<f32>> = None;
        for _ in 0..4 {
            let mut c = Tensor::zeros_on(card, dtype, &[m, n]).unwrap();
            let store = if dtype == DType::F32 { Store::Accumulate } else { Store::Overwrite };
            gemm::multiply(gpu, &mut c, store, 1.0, &[Part::new(a.view(), b.view())]).unwrap();
            expected.holds(&c);
            let found = download(&c);
            assert!(first.get_or_insert_with(|| found.clone()) == &found, "{n} columns differ the next time");
        }
    }
}

/// The scale of the adapters.
pub const SCALE: f32 = 1.7;

/// A linear map and its adapters.
#[derive(Clone)]
pub struct Case {
    pub n: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub segments: Vec<Range<usize>>,
    pub rank: usize,
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
        let one = Adapter { a, b, segments: &self.segments, scale: SCALE, dropout: self.dropout };
        (!self.segments.is_empty()).then_some(one)
    }

    pub fn has_dropout(&self) -> bool {
        self.dropout.is_some()
    }

    /// Whether no fast kernel can read the adapters beside the weights, so that their term may be added in a launch of its
    /// own, to what the first one has stored (`device::gemm::multiply`).
    fn may_add_later(&self) -> bool {
        let starts_and_ends = self.segments.iter().flat_map(|rows| [rows.start, rows.end]);
        starts_and_ends.chain([self.rank]).any(|at| !at.is_multiple_of(8))
    }

    fn name(&self) -> String {
        let Self { n, inputs, outputs, segments, rank, dropout } = self;
        let dropout = if dropout.is_some() { ", dropout" } else { "" };
        format!("linear {n}×{inputs}→{outputs} {segments:?} rank {rank}{dropout}")
    }
}

pub fn cases() -> Vec<Case> {
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
            compare(case.clone(), dtype, card);
        }
    }
}

/// What the op gets.
pub struct Inputs {
    pub case: Case,
    dtype: DType,
    pub x: Tensor,
    pub w: Tensor,
    dy: Tensor,
    pub a: Tensor,
    pub b: Tensor,
    /// dw, da, db before the backward.
    before: [Tensor; 3],
}

impl Inputs {
    pub fn new(case: Case, dtype: DType) -> Self {
        let (n, i, o, width) = (case.n, case.inputs, case.outputs, case.segments.len() * case.rank);
        let rows: usize = case.segments.iter().map(ExactSizeIterator::len).sum();
        let make = |name: &str, shape: &[usize]| random(name, shape, dtype);
        let before = [("dw", vec![o, i]), ("da", vec![width, i]), ("db", vec![rows, case.rank])]
            .map(|(name, shape)| random(name, &shape, DType::F32));
        let (x, w, dy) = (make("x", &[n, i]), make("w", &[o, i]), make("dy", &[n, o]));
        let (a, b) = (make("a", &[width, i]), make("b", &[rows, case.rank]));
        Self { case, dtype, x, w, dy, a, b, before }
    }

    /// y, dx, dw, da, db as they should be. S and dS are sums of products, rounded where they are handed on; what they
    /// are off by reaches y, dx, da and db by way of the adapters.
    pub fn expected(&self) -> Vec<Expected> {
        let Self { case, dtype, x, w, dy, a, b, .. } = self;
        let (n, i, o) = (case.n, case.inputs, case.outputs);
        let host = |shape: &[usize]| Tensor::from_f32(shape, vec![f32::NAN; shape.iter().product()]);
        let (mut y, mut s, mut dx, mut ds) = (host(&[n, o]), Tensor::empty(), host(&[n, i]), Tensor::empty());
        linear::forward(&mut y, &mut s, x, w, case.adapter(a, b)).unwrap();
        let [mut dw, mut da, mut db] = self.before.clone();
        let adapter = (!case.segments.is_empty()).then_some([&mut da, &mut db]);
        let gradients = Gradients { w: Some(&mut dw), adapter };
        linear::backward(&mut dx, &mut ds, gradients, dy, [x, &s], w, case.adapter(a, b)).unwrap();

        // Σ|terms|, and what comes in with the factors.
        let zeros = |t: &Tensor| Tensor::from_f32(t.shape(), vec![0.0; t.len()]);
        let mut sizes = [&y, &dx, &dw, &da, &db].map(zeros);
        let mut through = [&y, &dx, &dw, &da, &db].map(zeros);
        let mut squares = [&y, &dx, &dw, &da, &db].map(zeros);
        let [size_x, size_w, size_dy] = [x, w, dy].map(abs);
        add_product(into(&mut sizes[0]), 1.0, matrix(&size_x), matrix(&size_w).t());
        add_product(into(&mut sizes[1]), 1.0, matrix(&size_dy), matrix(&size_w));
        add_product(into(&mut sizes[2]), 1.0, matrix(&size_dy).t(), matrix(&size_x));
        let mut stored_before = [&y, &dx].map(zeros);
        if case.may_add_later() && *dtype == DType::Bf16 {
            add_product(into(&mut stored_before[0]), 1.0, matrix(x), matrix(w).t());
            add_product(into(&mut stored_before[1]), 1.0, matrix(dy), matrix(w));
        }
        if !case.segments.is_empty() {
            self.add_adapters(&mut sizes, &mut through, &s, &ds);
            if case.dropout.is_some() && *dtype == DType::Bf16 {
                self.add_masks(&mut squares, &ds);
            }
        }
        let terms = [i + case.rank, o + case.segments.len() * case.rank, n, n, n].map(|terms| terms + 4);
        let names = ["y", "dx", "dw", "da", "db"];
        let exact = [&y, &dx, &dw, &da, &db];
        let kinds = [*dtype, *dtype, DType::F32, *dtype, *dtype];
        let one = |k: usize| {
            let before = (k >= 2).then(|| self.before[k - 2].f32());
            let error = |(e, (size, through)): (usize, (&f32, &f32))| {
                let size = f64::from(size + before.map_or(0.0, |before| before[e].abs()));
                let masks = MANY * handed_on(*dtype) * f64::from(squares[k].f32()[e]).sqrt();
                let between = stored_before.get(k).map_or(0.0, |sum| f64::from(sum.f32()[e]).abs());
                let between = between * handed_on(*dtype);
                products(terms[k], *dtype) * size + f64::from(*through) + masks + between
            };
            let error = sizes[k].f32().iter().zip(through[k].f32()).enumerate().map(error).collect();
            let expected = Expected::new(format!("{}: {}", case.name(), names[k]), exact[k], error, kinds[k]);
            if k >= 2 { expected.stored_as_float() } else { expected }
        };
        (0..5).map(one).collect()
    }

    /// The adapters' share: S = s x̃ Aᵀ, dS = s dy B, here with the scale in both.
    fn add_adapters(&self, sizes: &mut [Tensor; 5], through: &mut [Tensor; 5], s: &Tensor, ds: &Tensor) {
        let Self { case, dtype, .. } = self;
        let (n, rank, scale) = (case.n, case.rank, SCALE);
        let keep = case.dropout.map_or(1.0, |dropout| 1.0 / (1.0 - dropout.p));
        let [x, dy, a, b, s] = [&self.x, &self.dy, &self.a, &self.b, s].map(abs);
        let ds = Tensor::from_f32(ds.shape(), ds.f32().iter().map(|x| x.abs() * scale).collect());
        let rounded = handed_on(*dtype) as f32;
        let mut next = 0;
        for (g, outputs) in case.segments.iter().enumerate() {
            let (columns, rows) = (g * rank..(g + 1) * rank, next..next + outputs.len());
            next = rows.end;
            let (a, b) = (matrix(&a).rows(columns.clone()), matrix(&b).rows(rows.clone()));
            let (dy, x) = (matrix(&dy).columns(outputs.clone()), matrix(&x));
            let part = |t: &Tensor| -> Tensor {
                let width = t.shape()[1];
                let rows = t.f32().chunks_exact(width).flat_map(|row| row[columns.clone()].to_vec());
                Tensor::from_f32(&[n, rank], rows.collect())
            };
            let (s, ds) = (part(&s), part(&ds));
            // What S and dS are off by.
            let [mut of_s, mut of_ds] = [0, 1].map(|_| Tensor::from_f32(&[n, rank], vec![0.0; n * rank]));
            add_product(into(&mut of_s), scale * keep, x, a.t());
            add_product(into(&mut of_ds), scale, dy, b);
            let shares = [products(case.inputs, *dtype) as f32, products(outputs.len(), *dtype) as f32];
            for ((error, value), share) in [(&mut of_s, &s), (&mut of_ds, &ds)].into_iter().zip(shares) {
                let values = error.f32_mut().iter_mut().zip(value.f32());
                values.for_each(|(e, value)| *e = *e * share + value * (rounded + 4.0 * U as f32));
            }
            for (which, s, ds) in [(0, &s, &ds), (1, &of_s, &of_ds)] {
                let to = if which == 0 { &mut *sizes } else { &mut *through };
                add_product(into(&mut to[0]).columns(outputs.clone()), 1.0, matrix(s), b.t());
                add_product(into(&mut to[1]), keep, matrix(ds), a);
                add_product(into_rows(&mut to[3], columns.clone()), keep, matrix(ds).t(), x);
                add_product(into_rows(&mut to[4], rows.clone()), 1.0, dy.t(), matrix(s));
            }
        }
    }
}

/// Under dropout x is rounded once more, element by element, before it meets A and dS: many roundings, each of either
/// sign whatever it is multiplied by. Their sum exceeds [`MANY`] times the root of the sum of their squares with a
/// probability below 2 e⁻⁵⁰ (Hoeffding).
const MANY: f64 = 10.0;

impl Inputs {
    /// The sums of the squares of what x̃ is multiplied by, in y, da and db.
    fn add_masks(&self, squares: &mut [Tensor; 5], ds: &Tensor) {
        let Self { case, .. } = self;
        let (n, rank) = (case.n, case.rank);
        let keep = case.dropout.map_or(1.0, |dropout| 1.0 / (1.0 - dropout.p));
        let square = |t: &Tensor| Tensor::from_f32(t.shape(), t.f32().iter().map(|x| x * x).collect());
        let [x, dy, a, b, ds] = [&self.x, &self.dy, &self.a, &self.b, ds].map(square);
        let factor = (SCALE * keep).powi(2);
        let mut next = 0;
        for (g, outputs) in case.segments.iter().enumerate() {
            let (columns, rows) = (g * rank..(g + 1) * rank, next..next + outputs.len());
            next = rows.end;
            let (a, b) = (matrix(&a).rows(columns.clone()), matrix(&b).rows(rows.clone()));
            let mut s = Tensor::from_f32(&[n, rank], vec![0.0; n * rank]);
            add_product(into(&mut s), factor, matrix(&x), a.t());
            add_product(into(&mut squares[0]).columns(outputs.clone()), 1.0, matrix(&s), b.t());
            let dy = matrix(&dy).columns(outputs.clone());
            add_product(into_rows(&mut squares[4], rows), 1.0, dy.t(), matrix(&s));
            let ds = matrix(&ds).columns(columns.clone());
            add_product(into_rows(&mut squares[3], columns), factor, ds.t(), matrix(&x));
        }
    }
}

fn compare(case: Case, dtype: DType, card: Device) {
    // Shown if the test fails.
    eprintln!("{} in {}", case.name(), dtype.name());
    let inputs = Inputs::new(case, dtype);
    let Inputs { case, before, .. } = &inputs;
    let (n, i, o) = (case.n, case.inputs, case.outputs);
    let [x, w, dy, a, b] =
        [&inputs.x, &inputs.w, &inputs.dy, &inputs.a, &inputs.b].map(|t| upload(t, dtype, card));
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
    for (index, expected) in inputs.expected().iter().enumerate() {
        if expected.exact.is_empty() {
            continue;
        }
        expected.holds(&runs[0][index]);
        let name = &expected.name;
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
        let (hx, hw) = (x, w);
        let [x, w] = [&hx, &hw].map(|t| upload(t, DType::Bf16, card));
        linear::forward(&mut logits, &mut Tensor::empty_on(card, DType::Bf16), &x, &w, None).unwrap();
        let (mut sizes, size_x, size_w) =
            (Tensor::from_f32(&[n, 5000], vec![0.0; n * 5000]), abs(&hx), abs(&hw));
        add_product(into(&mut sizes), 1.0, matrix(&size_x), matrix(&size_w).t());
        let error = sizes.f32().iter().map(|size| products(640, DType::Bf16) * f64::from(*size)).collect();
        Expected::new(format!("{n} rows of logits"), &exact, error, DType::F32).holds(&logits);
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
