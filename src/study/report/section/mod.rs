//! The sections of the report, each with the CSV of its figures and tables.
//!
//! | file | holds |
//! |---|---|
//! | `published.rs` | the run beside published figures |
//! | `rates.rs` `scaling.rs` | how often answers are misaligned; by the size of the model |
//! | `doses.rs` | by the dose of a direction |
//! | `inference.rs` | tests, regression, trends |
//! | `scores.rs` `agreement.rs` | alignment and coherence; raters with each other |
//! | `tables.rs` | what became of the answers, and their form |
//! | `answers.rs` `browser.rs` (`browser.js`) | the answers of lowest alignment; all of them, a page at a time |
//! | `methods.rs` | how all this was made |

pub(super) mod agreement;
pub(super) mod answers;
pub(super) mod browser;
pub(super) mod doses;
pub(super) mod inference;
pub(super) mod methods;
pub(super) mod published;
pub(super) mod rates;
pub(super) mod scaling;
pub(super) mod scores;
pub(super) mod tables;
