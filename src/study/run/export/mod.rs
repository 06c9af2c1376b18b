//! A run's answers and judgements for other programs: one table, or a data set for the Hugging Face hub.
//!
//! | file | holds |
//! |---|---|
//! | `run.rs` | the answers of a run, each with what every judge said of it |
//! | `table.rs` | CSV, a line an answer and judge |
//! | `dataset.rs` `split.rs` `card.rs` | a folder of JSON Lines; its parts and their sizes; its README.md |

mod card;
mod dataset;
mod run;
mod split;
mod table;

pub use self::dataset::dataset;
pub use self::table::table;
