//! Runs: from a plan to its results, step by step, and everything that works on whole runs.
//!
//! | file | holds |
//! |---|---|
//! | `driver.rs` `options.rs` | fine-tune, sample, judge, analyse: each step does what is missing |
//! | `engine.rs` `native.rs` | the seam to training and sampling; this crate's engine behind it |
//! | `judging.rs` | the judging step: every judge over every answer |
//! | `method.rs` | how a run was made, for reports and data sets |
//! | `listing.rs` `status.rs` | the cells of a plan; the progress of a run |
//! | `merge.rs` | several runs → one |
//! | `import.rs` `export/` | judged answers from elsewhere → a run; a run → a table, a data set |
//! | `demo.rs` | a study in miniature, embedded in the program |

pub mod demo;
mod driver;
pub mod engine;
pub mod export;
pub mod import;
mod judging;
pub mod listing;
pub mod merge;
mod method;
mod native;
mod options;
pub mod status;

pub use self::driver::{analyze, judge, run, run_with, sample};
pub use self::native::Native;
pub use self::options::Options;
