//! A kernel as a page: what it computes, its definition on the CPU beside it, what it takes of the card, what was measured.
//!
//! | file | holds |
//! |---|---|
//! | `page.rs` | the list of kernels, a kernel by name, its page |
//! | `catalogue.rs` | the kernel files, and what defines and measures each |
//! | `source.rs` | excerpts of source |
//! | `head.rs` | the sections of a file's head |
//! | `index.rs` | the index of `kernels/README.md` |
//! | `variants.rs` | the load-time constants that a model gives each kernel |
//! | `resources.rs` | registers, shared memory, and how many blocks fit |
//! | `measured.rs` | the figures of `benches/results` |

pub mod catalogue;
pub mod head;
pub mod index;
pub mod measured;
pub mod page;
pub mod resources;
pub mod source;
pub mod variants;

pub use page::{Kernel, Line, Page, Pair, all, find};
