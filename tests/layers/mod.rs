//! The arrows between layers, between the rooms of `study` and between files point one way; maps are maps; `unsafe`
//! stands where it belongs.
//!
//! | file | holds |
//! |---|---|
//! | `scan.rs` | a source file → its imports, paths and modules |
//! | `tree.rs` | the modules of the crate; which file a path leads to; circles |
//! | `rules.rs` | the rules of the house, held against the sources |
//! | `scanner_tests.rs` | that the scanner sees what it must see |

mod rules;
mod scan;
mod scanner_tests;
mod tree;
