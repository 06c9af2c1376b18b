//! L3: looks into a model: runs it and reads its activations and gradients, without changing a weight.
//!
//! | file | holds |
//! |---|---|
//! | `spectrum.rs` | singular values and spaces of an adapter's ΔW, which is never formed |
//! | `diff.rs` | an adapter's changes, module by module; two adapters side by side |
//! | [`compare`] | two models on one text: where their streams diverge, how their predictions differ |
//! | [`patch`] | activations of one prompt put into the run of another |
//! | `features.rs` | the residual stream while a model reads texts; its means over answers |
//! | [`gradient`] | the gradient of a text's loss, by site, token and parameter |
//! | [`influence`] | which training examples move the loss of an answer most |
//! | `direction.rs` | directions that separate two sets of answers |
//! | `classifier.rs` `folds.rs` | the linear classifiers behind them; cross-validation |
//! | [`kernel`] | a kernel as a page: definition, source, resources, figures |
//! | `sums.rs` | sums in double precision |
//! | [`trace`] | everything that can be seen of one text's pass through a model |

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
mod sums;
pub mod trace;

pub use self::classifier::Accuracy;
