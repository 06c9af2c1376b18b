//! Two linear classifiers for two sets of examples, and their accuracy on held-out examples.
//!
//! ```text
//! mean difference   w = m₊ − m₋
//! probe             w = argmin Σ (y − w·x̃)² + λ|w|²,  y = ±1: Fisher's discriminant with a shrunk covariance
//!                     = X̃ᵀ(X̃X̃ᵀ + λ)⁻¹ y,  x̃ = x − mean,  λ = ridge · Σ|x̃|²/C
//! both say +        if w·x is beyond the midpoint of w·m₊ and w·m₋
//! ```
//! Each w is a sum Σ aₙx̃ₙ, so cross-validation needs only the products of examples, whatever the width C is.

use crate::device::matrix::{Matrix, dot, inverse, times};
use crate::device::philox::Key;
use crate::error::{Error, Result};

use super::folds::Folds;

/// Balanced accuracy on examples that were held out.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Accuracy {
    /// The mean over both classes of the share that is classified correctly.
    pub accuracy: f64,
    /// Its standard error, assuming independent examples.
    pub standard_error: f64,
    /// The p value: the share of labellings that do at least as well, the true one and the shuffled ones; none if none were tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
}

/// How many examples of each class were classified correctly.
type Hits = [usize; 2];

/// Centred products of examples.
pub(super) fn products(x: &[Vec<f32>]) -> Matrix {
    let centred = centred(x);
    let mut products: Matrix = Vec::with_capacity(x.len());
    for (i, row) in centred.iter().enumerate() {
        let mut line: Vec<f64> = products.iter().map(|line| line[i]).collect();
        line.extend(centred[i..].iter().map(|other| dot(row, other)));
        products.push(line);
    }
    products
}

/// The examples less their mean.
fn centred(x: &[Vec<f32>]) -> Matrix {
    let mean = mean(x.iter());
    x.iter().map(|x| x.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean).collect()).collect()
}

/// The mean of examples.
pub(super) fn mean<'a>(x: impl ExactSizeIterator<Item = &'a Vec<f32>>) -> Vec<f64> {
    let n = x.len() as f64;
    let mut sum: Vec<f64> = Vec::new();
    for x in x {
        sum.resize(x.len(), 0.0);
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += f64::from(*x);
        }
    }
    sum.into_iter().map(|sum| sum / n).collect()
}

/// The probe's w (C), fitted to all examples, of any length; `products` are those of `x`.
///
/// # Errors
/// As [`regularised_inverse`].
pub(super) fn probe(
    x: &[Vec<f32>],
    products: &[Vec<f64>],
    positive: &[bool],
    ridge: f64,
) -> Result<Vec<f64>> {
    let weights = times(&regularised_inverse(products, x[0].len(), ridge)?, &signs(positive));
    let mut w = vec![0.0; x[0].len()];
    for (x, weight) in centred(x).iter().zip(weights) {
        for (w, x) in w.iter_mut().zip(x) {
            *w += weight * x;
        }
    }
    Ok(w)
}

/// (G + λ)⁻¹ of centred products G.
///
/// # Errors
/// [`Error::Run`] if that is singular: ridge is too small for the examples.
fn regularised_inverse(products: &[Vec<f64>], channels: usize, ridge: f64) -> Result<Matrix> {
    let trace: f64 = products.iter().enumerate().map(|(i, row)| row[i]).sum();
    // If all examples are equal there is nothing to regularise.
    let lambda = if trace > 0.0 { ridge * trace / channels as f64 } else { 1.0 };
    let mut matrix = products.to_vec();
    for (i, row) in matrix.iter_mut().enumerate() {
        row[i] += lambda;
    }
    let singular = || Error::Run(format!("ridge = {ridge} is too small for these examples"));
    inverse(&matrix).map(|(inverse, _)| inverse).ok_or_else(singular)
}

fn signs(positive: &[bool]) -> Vec<f64> {
    positive.iter().map(|positive| if *positive { 1.0 } else { -1.0 }).collect()
}

/// Held-out accuracy of the mean difference and of the probe. The labels are shuffled within each fold `permutations` times,
/// as `seed` decides, for the p value (Ojala and Garriga, "Permutation tests for studying classifier performance", 2010);
/// it assumes exchangeable examples.
///
/// # Errors
/// [`Error::Run`] if ridge is too small.
pub(super) fn validate(
    products: &[Vec<f64>],
    channels: usize,
    positive: &[bool],
    folds: &Folds,
    ridge: f64,
    permutations: usize,
    seed: u64,
) -> Result<[Accuracy; 2]> {
    let mut labellings = vec![positive.to_vec()];
    labellings.extend((0..permutations).map(|i| shuffled(positive, folds, seed, i)));
    let mut hits = [(); 2].map(|()| vec![Hits::default(); labellings.len()]);
    for fold in 0..folds.count {
        held_out(products, channels, &labellings, &Split::new(folds, fold), ridge, &mut hits)?;
    }
    let n = [false, true].map(|class| positive.iter().filter(|p| **p == class).count() as f64);
    Ok(hits.map(|hits| {
        let accuracy = |hits: &Hits| f64::midpoint(hits[0] as f64 / n[0], hits[1] as f64 / n[1]);
        let shares = [0, 1].map(|class| hits[0][class] as f64 / n[class]);
        let variance: f64 = (0..2).map(|class| shares[class] * (1.0 - shares[class]) / n[class]).sum();
        let found = accuracy(&hits[0]);
        let as_good = hits.iter().filter(|hits| accuracy(hits) >= found).count();
        let p = (permutations > 0).then(|| as_good as f64 / hits.len() as f64);
        Accuracy { accuracy: found, standard_error: variance.sqrt() / 2.0, p }
    }))
}

/// The labels, shuffled within each fold, so that every fold keeps its number of each label.
fn shuffled(positive: &[bool], folds: &Folds, seed: u64, permutation: usize) -> Vec<bool> {
    let mut shuffled = positive.to_vec();
    for fold in 0..folds.count {
        let key = Key::new(seed, &["labels", &permutation.to_string(), &fold.to_string()]);
        let members = Split::new(folds, fold).test;
        for (to, from) in members.iter().zip(key.permutation(members.len())) {
            shuffled[*to] = positive[members[from]];
        }
    }
    shuffled
}

/// The examples to train on, and those held out.
struct Split {
    train: Vec<usize>,
    test: Vec<usize>,
}

impl Split {
    fn new(folds: &Folds, fold: usize) -> Self {
        let (test, train) = (0..folds.of.len()).partition(|&i| folds.of[i] == fold);
        Self { train, test }
    }
}

/// Trains on one side of a split under every labelling, and adds the correctly classified examples of the other side to `hits`,
/// by classifier and labelling.
fn held_out(
    products: &[Vec<f64>],
    channels: usize,
    labellings: &[Vec<bool>],
    Split { train, test }: &Split,
    ridge: f64,
    hits: &mut [Vec<Hits>; 2],
) -> Result<()> {
    // Centred on the mean of the training examples: k − k̄ᵢ − k̄ⱼ + k̄.
    let n = train.len() as f64;
    let means: Vec<f64> = products.iter().map(|row| train.iter().map(|&j| row[j]).sum::<f64>() / n).collect();
    let all = train.iter().map(|&i| means[i]).sum::<f64>() / n;
    let among = |rows: &[usize]| -> Matrix {
        let row = |&i: &usize| train.iter().map(|&j| products[i][j] - means[i] - means[j] + all).collect();
        rows.iter().map(row).collect()
    };
    let (seen, unseen) = (among(train), among(test));
    let inverse = regularised_inverse(&seen, channels, ridge)?;
    for (i, positive) in labellings.iter().enumerate() {
        let labels: Vec<bool> = train.iter().map(|&i| positive[i]).collect();
        let count = [false, true].map(|class| labels.iter().filter(|label| **label == class).count() as f64);
        let share = |positive: &bool| if *positive { 1.0 / count[1] } else { -1.0 / count[0] };
        let shares: Vec<f64> = labels.iter().map(share).collect();
        let fitted = times(&inverse, &signs(&labels));
        for (weights, hits) in [shares.as_slice(), &fitted].into_iter().zip(hits.iter_mut()) {
            // Half of (mean over + plus mean over −).
            let scores = times(&seen, weights);
            let midpoint: f64 =
                scores.iter().zip(&shares).map(|(score, share)| score * share.abs()).sum::<f64>() / 2.0;
            for (row, &example) in unseen.iter().zip(test) {
                let says = dot(row, weights) > midpoint;
                hits[i][usize::from(positive[example])] += usize::from(says == positive[example]);
            }
        }
    }
    Ok(())
}
