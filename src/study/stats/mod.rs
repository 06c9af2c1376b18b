//! Statistics, with the names and definitions of scipy and statsmodels, against whose values
//! `tests/statistics_golden.rs` holds them (`tools/make_statistics_goldens.py`).
//!
//! | file | holds |
//! |---|---|
//! | `distribution.rs` | tail probabilities and quantiles, exact far out |
//! | `proportion.rs` | Wilson, two-proportion z, chi-square, Fisher, odds ratio, difference, Cohen's h |
//! | `clustered.rs` | the difference of two proportions when answers come in clusters |
//! | `bootstrap.rs` | intervals from whole clusters drawn again |
//! | `correlation.rs` | Pearson, Spearman |
//! | `logistic.rs` | logistic regression, cluster-robust errors, separation, Firth's penalty |
//! | `trend.rs` | Cochran–Armitage |
//! | `multiple.rs` | Holm, Bonferroni, Benjamini–Hochberg |
//! | `power.rs` | power, the n needed, the smallest effect that is found |
//! | `agreement.rs` | two raters: weighted kappa, Bland–Altman |
//!
//! What does not exist (a rate of no trials, a test of two arms without a single event) is `None`, never NaN.

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
