//! `docs/transformer.md` is true: what is quoted beside a link stands in the line that it names, every command prints what is
//! shown, and every table of numbers holds what the bundled checkpoints compute.
//!
//! `EMLAB_WRITE_WALK=1 cargo test --test suite transformer_walk` writes the lines, outputs and numbers anew; look at the difference
//! before it is committed. The Rust in it runs with `cargo test --doc`.

mod commands;
mod links;
mod numbers;

use std::path::{Path, PathBuf};

/// The top of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk() -> PathBuf {
    root().join("docs/transformer.md")
}

/// The text as it should be, and a line for everything in which it is not so.
struct Checked {
    text: String,
    faults: Vec<String>,
}

#[test]
fn the_walk_is_true() {
    let text = std::fs::read_to_string(walk()).unwrap();
    let (mut right, mut faults) = (text, Vec::new());
    for check in [links::check, commands::check, numbers::check] {
        let checked = check(&right);
        right = checked.text;
        faults.extend(checked.faults);
    }
    if std::env::var_os("EMLAB_WRITE_WALK").is_some() {
        // What cannot be set right is said all the same.
        std::fs::write(walk(), &right).unwrap();
        faults.retain(|fault| fault.contains("nowhere") || fault.contains("failed"));
    }
    assert!(faults.is_empty(), "docs/transformer.md:\n{}", faults.join("\n"));
}
