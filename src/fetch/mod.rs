//! L3: downloads models and data sets into the local cache.
//!
//! | file | holds |
//! |---|---|
//! | `cache.rs` | the user's cache folder |
//! | `progress.rs` | [`Progress`]: how far a download is |
//! | `http.rs` | `Client`: downloads one address, with retries, resumption and a checksum |
//! | `hub.rs` | [`Hub`]: models in the cache layout of Hugging Face's own tools; [`locate`] |
//! | `data.rs` | [`DataSet`]: the study's data, pinned by sha256 |

mod cache;
mod data;
mod http;
mod hub;
mod progress;
#[cfg(test)]
mod server;

pub use cache::cache_home;
pub use data::{DATA_SETS, DataSet, Source};
pub use hub::{Hub, locate};
pub use progress::Progress;
