//! Judging: a separate step over stored answers, which can be interrupted and repeated.
//!
//! | file | holds |
//! |---|---|
//! | `judgement.rs` | judgements, and the tasks that they answer |
//! | `prompt.rs` `aggregate.rs` | the judge's message; distribution → score |
//! | `local.rs` | the distribution of a model in this engine |
//! | `remote/` | a server: cache, live requests, batches, rate limits, budget |

pub mod aggregate;
mod judgement;
pub mod local;
pub mod prompt;
pub mod remote;

pub use self::judgement::{Judgement, Task};
