//! Looks into a model: runs it, reads what it does, and changes no weight.
//!
//! | file | holds |
//! |---|---|
//! | `spectrum.rs` | singular values and spaces of an adapter's ΔW, which is never formed |
//! | `diff.rs` | an adapter's changes, module by module; two adapters side by side |
//! | [`compare`] | two models on one text: where their streams part, what they then say differently |
//! | [`patch`] | activations of one prompt put into the run of another |
//! | `features.rs` | the residual stream while a model reads texts; its means over answers |
//! | [`gradient`] | the gradient of a text's loss, by site, token and parameter |
//! | [`influence`] | which training examples move the loss of an answer most |
//! | `direction.rs` | directions that tell two sets of answers apart |
//! | `classifier.rs` `folds.rs` | the linear classifiers behind them; cross-validation |
//! | [`kernel`] | a kernel as a page: definition, source, resources, figures |
//! | [`trace`] | one text's way through a model, with everything on it that can be seen |

mod classifier;
pub mod compare;
pub mod diff;
pub mod direction;
pub mod features;
pub mod folds;
pub mod gradient;
pub mod influence;
pub mod kernel;
pub mod patch;
pub mod spectrum;
pub mod trace;

pub use self::classifier::Accuracy;

/// Most tokens of one pass, unless a text alone has more.
const PASS: usize = 4096;

/// ln Σ exp x, in double precision.
fn log_sum(x: &[f32]) -> f64 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + x.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln()
}

/// Σ x², in double precision.
fn square_sum(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum()
}
