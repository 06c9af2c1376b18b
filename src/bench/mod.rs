//! What `emlab bench` and `cargo bench --bench ops` time: every op at the sizes of real models, held against what the
//! machine can do.
//!
//! | file | holds |
//! |---|---|
//! | [`case`] | one op at one set of sizes, with the bytes and FLOP that it cannot do without |
//! | [`cases`] (`cases/`) | all of them, for given models and a given pass |
//! | [`inputs`] | random tensors |
//! | [`clock`], [`measure`] | how long one run takes; medians of many |
//! | [`machine`] | the card, its clock and its temperature; the date |
//! | [`peer`] | times of another engine, read from a table |
//! | [`report`] | the figures as a table, CSV and JSON |

pub mod case;
pub mod cases;
pub mod clock;
pub mod inputs;
pub mod machine;
pub mod measure;
pub mod peer;
pub mod report;
