//! The study: plan → cells → fine-tune → sample → judge → statistics → report. No tensors here.
//!
//! Rooms, lowest first; a room uses only those above it in this table, and the files of a room form no circle:
//!
//! | room | holds |
//! |---|---|
//! | `stats/` | pure mathematics on counts and numbers |
//! | `store/` | what is on disk: ledgers of checksummed lines, manifests, locks, hashes |
//! | `csv.rs` | tables |
//! | `plan/` | what is to be done: plan, conditions, questions, formats, declared tests, cells and what they are made under |
//! | `folder.rs` | what lies where in a run |
//! | `judge/` | distributions → scores; a server or a model in this engine as the judge |
//! | `analyze/` | answers and judgements → counts, rates with intervals, tests; two raters; contrasts |
//! | `report/` | `report.html`: tables, figures, answers; `csv/`: the numbers behind them |
//! | `run/` | the driver and its steps; status, listing, merge, import, export; the demo |

pub mod analyze;
pub mod csv;
pub mod folder;
pub mod judge;
pub mod plan;
pub mod report;
pub mod run;
pub mod stats;
pub mod store;

pub use self::plan::Plan;
pub use self::run::{Options, run};
