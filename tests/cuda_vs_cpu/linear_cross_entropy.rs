//! Head and loss in one, with their gradients.

use emlab::device::product::{View, ViewMut};
use emlab::device::{DType, Device, Tensor};
use emlab::ops::linear_cross_entropy::{self, Gradients};

use super::budget::{Expected, U, abs, add_product, floats, handed_on, matrix, products};
use super::{DTYPES, card, host, poisoned, random, twice, upload};

/// Rows, width, vocabulary: odd ones, more rows than a chunk, then the vocabularies of the models.
pub const CASES: [[usize; 3]; 6] =
    [[5, 16, 37], [3, 5, 1001], [1030, 64, 1000], [40, 128, 50_003], [3, 32, 151_936], [2, 32, 262_144]];

const WEIGHT: f32 = 0.37;

/// What the op gets: x, w, the targets, and dw before the backward.
pub struct Inputs {
    x: Tensor,
    w: Tensor,
    targets: Vec<u32>,
    before: Tensor,
}

impl Inputs {
    pub fn new([n, c, v]: [usize; 3], dtype: DType) -> Self {
        Self {
            x: random("x", &[n, c], dtype),
            w: random("w", &[v, c], dtype),
            targets: (0..n).map(|i| (i * 7919 % v) as u32).collect(),
            before: random("dw", &[v, c], DType::F32),
        }
    }

    /// nll, dx and dw as they should be.
    ///
    /// A logit is a sum of C products; what the logits of a row are off by, at most, is what lse and the logarithm of any
    /// probability are off by. dlogits is rounded where it is handed on to the products of dx and dw.
    pub fn expected(&self, dtype: DType) -> [Expected; 3] {
        let Self { x, w, targets, before } = self;
        let ([n, c], [v, _]) = (x.dims().unwrap(), w.dims().unwrap());
        let name = |what: &str| format!("{what} of {n} rows, {c} channels, {v} tokens");
        let (mut dx, mut dw) = (host(&[n, c]), before.clone());
        let gradients = Gradients { dx: Some(&mut dx), dw: Some(&mut dw) };
        let nll =
            linear_cross_entropy::forward(gradients, &mut Tensor::empty(), x, w, targets, WEIGHT).unwrap();

        let (size_x, size_w) = (abs(x), abs(w));
        let [mut dx_sizes, mut dx_through] = [0, 1].map(|_| vec![0.0f32; n * c]);
        let [mut dw_sizes, mut dw_through] = [0, 1].map(|_| vec![0.0f32; v * c]);
        let mut nll_error = Vec::new();
        let (mut logits, mut sizes) = (vec![0.0f32; v], vec![0.0f32; v]);
        for row in 0..n {
            let of_row = |t: &Tensor| Tensor::from_f32(&[1, c], t.f32()[row * c..][..c].to_vec());
            let (own, own_size) = (of_row(x), of_row(&size_x));
            logits.fill(0.0);
            sizes.fill(0.0);
            add_product(ViewMut::new(&mut logits, 1, v), 1.0, matrix(&own), matrix(w).t());
            add_product(ViewMut::new(&mut sizes, 1, v), 1.0, matrix(&own_size), matrix(&size_w).t());
            let most = |x: &[f32]| f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let (max, off) = (most(&logits), products(c, dtype) * most(&sizes));
            let spread = max + most(&logits.iter().map(|x| -x).collect::<Vec<f32>>());
            let sum: f64 = logits.iter().map(|x| (f64::from(*x) - max).exp()).sum();
            // The card's own exponential is within 2⁻²² (1 + |x|).
            let relative = 2.0 * off + 8.0 * U * (2.0 + spread) + floats(v);
            let target = targets[row] as usize;
            nll_error.push(relative + 8.0 * U * (2.0 * max.abs() + sum.ln() + spread));
            let gradient = |(token, logit): (usize, &f32)| {
                let p = (f64::from(*logit) - max).exp() / sum * f64::from(WEIGHT);
                let chosen = if token == target { f64::from(WEIGHT) } else { 0.0 };
                let size = (p - chosen).abs();
                (size as f32, (p * relative + 4.0 * U * (p + chosen) + handed_on(dtype) * size) as f32)
            };
            let (size, off): (Vec<f32>, Vec<f32>) = logits.iter().enumerate().map(gradient).unzip();
            for (d, dx, dw) in
                [(&size, &mut dx_sizes, &mut dw_sizes), (&off, &mut dx_through, &mut dw_through)]
            {
                let d = View::new(d, 1, v);
                add_product(ViewMut::new(&mut dx[row * c..][..c], 1, c), 1.0, d, matrix(&size_w));
                add_product(ViewMut::new(dw, v, c), 1.0, d.t(), matrix(&own_size));
            }
        }
        let errors = |sizes: &[f32], through: &[f32], terms: usize, before: Option<&[f32]>| -> Vec<f64> {
            let one = |(e, (size, through)): (usize, (&f32, &f32))| {
                let size = f64::from(size + before.map_or(0.0, |before| before[e].abs()));
                products(terms, dtype) * size + f64::from(*through)
            };
            sizes.iter().zip(through).enumerate().map(one).collect()
        };
        let dx_error = errors(&dx_sizes, &dx_through, v, None);
        let dw_error = errors(&dw_sizes, &dw_through, n, Some(before.f32()));
        [
            Expected::new(name("nll"), &Tensor::from_f32(&[n], nll), nll_error, DType::F32),
            Expected::new(name("dx"), &dx, dx_error, dtype),
            Expected::new(name("dw"), &dw, dw_error, dtype).stored_as_float(),
        ]
    }
}

fn compare(case: [usize; 3], dtype: DType, card: Device) {
    let [n, c, v] = case;
    let inputs = Inputs::new(case, dtype);
    let targets = &inputs.targets;
    let expected = inputs.expected(dtype);
    let [gx, gw] = [&inputs.x, &inputs.w].map(|t| upload(t, dtype, card));
    let logits = || Tensor::empty_on(card, DType::F32);
    let [nll, alone, gdx, gdw] = twice(&format!("linear_cross_entropy of {case:?}"), || {
        let (mut dx, mut dw) = (poisoned(&[n, c], dtype, card), inputs.before.to(card).unwrap());
        let gradients = Gradients { dx: Some(&mut dx), dw: Some(&mut dw) };
        let nll = linear_cross_entropy::forward(gradients, &mut logits(), &gx, &gw, targets, WEIGHT).unwrap();
        let none = Gradients::default();
        let alone = linear_cross_entropy::forward(none, &mut logits(), &gx, &gw, targets, 1.0).unwrap();
        let on_card = |x| Tensor::from_f32(&[n], x).to(card).unwrap();
        [on_card(nll), on_card(alone), dx, dw]
    });
    let [of_nll, of_dx, of_dw] = expected;
    of_nll.holds(&nll);
    // The loss without gradients.
    of_nll.holds(&alone);
    // An element of dx is a sum over V whose largest term is its target's: what comes after that term is rounded to half
    // a unit in its last place each time, in no direction, on both sides.
    of_dx.holds_within(&gdx, 2.0 * (v as f64).sqrt() * 2f64.powi(-24));
    of_dw.holds(&gdw);
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
