//! The arrows between layers point one way: study → {train, generate, fetch} → model → ops → device.
//!
//! Reads the `crate::…` paths of every source file and fails on one that the layer may not use; and keeps `unsafe`
//! where it belongs.

use std::path::{Path, PathBuf};

/// Each layer and what it may use besides itself and `error`.
const LAYERS: [(&str, &[&str]); 7] = [
    ("device", &[]),
    ("ops", &["device"]),
    ("model", &["device", "ops"]),
    ("train", &["device", "ops", "model"]),
    ("generate", &["device", "ops", "model"]),
    ("fetch", &["device", "model"]),
    ("study", &["device", "ops", "model", "train", "generate", "fetch"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source folder") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The source folder, and every file in it with its text.
fn files(layer: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(layer);
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(!found.is_empty(), "layer {layer} has no source");
    found
        .into_iter()
        .map(|path| (path.clone(), std::fs::read_to_string(&path).expect("a source file")))
        .collect()
}

#[test]
fn no_arrow_points_the_wrong_way() {
    let mut wrong = Vec::new();
    for (layer, below) in LAYERS {
        for (path, text) in files(layer) {
            for (number, line) in text.lines().enumerate() {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                for used in line.split("crate::").skip(1) {
                    let name: String =
                        used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    let known = LAYERS.iter().any(|(l, _)| *l == name);
                    if known && name != layer && !below.contains(&name.as_str()) {
                        wrong.push(format!("{}:{}: {layer} uses {name}", path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_lives_in_the_device_layer() {
    for (layer, _) in LAYERS.iter().filter(|(l, _)| *l != "device") {
        for (path, text) in files(layer) {
            let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                let word =
                    line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').any(|w| w == "unsafe");
                assert!(!word, "{}: unsafe near line {}", path.display(), number + 1);
            }
        }
    }
}
