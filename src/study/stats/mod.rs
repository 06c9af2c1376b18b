//! Statistics, with the names and definitions of scipy and statsmodels, which
//! `tests/statistics_golden.rs` compares them with (`tools/make_statistics_goldens.py`).
//!
//! | file | holds |
//! |---|---|
//! | `distribution.rs` | tail probabilities and quantiles, accurate far out |
//! | `proportion.rs` | Wilson, two-proportion z, chi-square, Fisher, odds ratio, difference, Cohen's h |
//! | `clustered.rs` | the difference of two proportions when answers come in clusters |
//! | `bootstrap.rs` | intervals from resampling whole clusters |
//! | `correlation.rs` | Pearson, Spearman |
//! | `logistic.rs` | logistic regression, cluster-robust errors, separation, Firth's penalty |
//! | `trend.rs` | Cochran–Armitage |
//! | `multiple.rs` | Holm, Bonferroni, Benjamini–Hochberg |
//! | `power.rs` | power, the n needed, the smallest detectable effect |
//! | `agreement.rs` | two raters: weighted kappa, Bland–Altman |
//!
//! Undefined values (a rate of no trials, a test of two arms without a single event) are `None`, never NaN.
//!
//! By hand on purpose: distributions come from `statrs`, but no crate has logistic regression with cluster-robust errors
//! and Firth's penalty, or the cluster bootstrap. Both are short, and are tested against statsmodels and R.

pub mod agreement;
pub mod bootstrap;
pub mod clustered;
pub mod correlation;
pub mod distribution;
pub mod logistic;
pub mod multiple;
pub mod power;
pub mod proportion;
pub mod trend;

pub use self::correlation::{pearson, spearman};
pub use self::distribution::normal_quantile;
pub use self::multiple::Correction;
pub use self::proportion::{Count, wilson};
