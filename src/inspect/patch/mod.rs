//! Activation patching: activations of a run on one prompt are put into a run on another, place by place; the effect on the
//! output shows which places carry the difference (Meng et al., arXiv 2202.05262; Heimersheim and Nanda, arXiv 2404.15255).
//!
//! ```text
//! metric m        logit(yes) − logit(no) of the next token, or Σ ln p of the tokens of an answer
//! effect          (m_patched − m_target) / (m_source − m_target): 0 if nothing changes, 1 if the target's run now gives the
//!                 source's metric
//! ```
//!
//! Prompts of different lengths are aligned from both ends ([`align`]); places without a partner are not patched.
//!
//! | file | holds |
//! |---|---|
//! | `metric.rs` | the number that is read at the end of a run |
//! | `run.rs` | runs whose activations are kept, and runs into which they are put |
//! | `patching.rs` | the effects of all places, as maps |
//! | `page.rs` | the maps as a page |

mod metric;
mod page;
mod patching;
mod run;

pub use metric::Metric;
pub use patching::{Columns, Map, Patched, align, likeliest, patch};
