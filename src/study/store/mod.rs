//! What has been produced, on disk: records, manifests, locks and checksums. Knows nothing of plans or cells.
//!
//! By hand on purpose: ledgers are JSON Lines and not a database, so that they can be read and checked with any tool, and
//! runs from several machines are merged by copying lines.
//!
//! | file | holds |
//! |---|---|
//! | `hash.rs` | SHA-256 of bytes and of JSON |
//! | `line.rs` | a line of a ledger and its checksum |
//! | `write.rs` | files that are replaced as a whole |
//! | `manifest.rs` | what the things beside it were made under |
//! | `ledger.rs` | append-only records that survive a kill |
//! | `lock.rs` | which process may work on which part |
//! | `fingerprint.rs` | a checkpoint, named by its content |

pub mod fingerprint;
pub mod hash;
pub mod ledger;
pub(super) mod line;
pub mod lock;
pub mod manifest;
pub mod write;

pub use self::fingerprint::fingerprint;
pub use self::hash::{sha256, sha256_json};
pub use self::ledger::{Ledger, Record, Survey, adopt, read, survey};
pub use self::manifest::{MANIFEST, check, configuration, same_manifest, write_manifest};
pub use self::write::write_whole;
