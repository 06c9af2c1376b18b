//! Two raters of the same answers: a run's judges, or a judge and people.
//!
//! | file | holds |
//! |---|---|
//! | `scores.rs` | a rater's scores, by answer |
//! | `label.rs` | a sample for people to label, and their labels |
//! | `pairs.rs` | two raters at a time, and how far they agree |

pub mod label;
pub mod pairs;
pub mod scores;
