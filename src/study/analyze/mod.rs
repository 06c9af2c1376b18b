//! Answers and judgements → everything that the report says of them.
//!
//! | file | holds |
//! |---|---|
//! | `rows.rs` `table.rs` `flags.rs` | answers as rows: of a run, of tables from elsewhere; what can be said without a judge |
//! | `outcome.rs` | what becomes of an answer |
//! | `counts.rs` | counts and rates by group |
//! | `correlation.rs` | alignment and coherence |
//! | `clusters.rs` | counts by model, condition, format and question: what tests are made of |
//! | `families.rs` | the families of tests that the plan declares |
//! | `doses.rs` | misaligned against the dose of a direction |
//! | `regression.rs` | misaligned on condition × format, and on the size of the model |
//! | `agreement/` | two raters of the same answers; a sample for people to label |
//! | `summary.rs` | all of these together |
//! | `contrast.rs` | two sets of a run's answers, for directions that tell them apart |

pub mod agreement;
mod clusters;
pub mod contrast;
mod correlation;
mod counts;
mod doses;
mod families;
pub mod flags;
mod outcome;
mod regression;
pub mod rows;
mod summary;
pub mod table;

pub use self::correlation::Correlation;
pub use self::counts::{Counts, Group, Label, Rate};
pub use self::doses::{Dose, DoseResponse, dose_responses};
pub use self::families::{FamilyResult, TestResult};
pub use self::outcome::{Outcome, outcome};
pub use self::regression::{Errors, Estimator, FittedModel, Regression, Term, Trend, Trends};
pub use self::summary::{Summary, summarise};
