//! The arrows between layers point one way: study → {train, generate, fetch}, inspect → model → ops → device.
//!
//! Reads the `crate::…` paths of every source file and fails on one that the layer may not use; and keeps `unsafe`
//! where it belongs.

use std::path::{Path, PathBuf};

/// Each layer and what it may use besides itself and `error`.
const LAYERS: [(&str, &[&str]); 8] = [
    ("device", &[]),
    ("ops", &["device"]),
    ("model", &["device", "ops"]),
    ("train", &["device", "ops", "model"]),
    ("generate", &["device", "ops", "model"]),
    ("inspect", &["device", "ops", "model"]),
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

/// What follows `mod cuda {` at the left margin, up to the brace that closes it there.
fn launches(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter(move |(_, line)| {
        inside |= *line == "mod cuda {";
        let here = inside;
        inside &= *line != "}";
        here
    })
}

#[test]
fn unsafe_lives_in_the_device_layer_and_in_launches() {
    for (layer, _) in LAYERS.iter().filter(|(l, _)| *l != "device") {
        for (path, text) in files(layer) {
            if *layer == "ops" && path.ends_with("cuda.rs") {
                continue;
            }
            let allowed: Vec<usize> = if *layer == "ops" {
                launches(&text).map(|(number, _)| number).collect()
            } else {
                Vec::new()
            };
            for (number, line) in text.lines().enumerate() {
                let word =
                    line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').any(|w| w == "unsafe");
                let comment = line.trim_start().starts_with("//");
                let fine = !word || comment || allowed.contains(&number);
                assert!(fine, "{}:{}: unsafe outside a launch", path.display(), number + 1);
            }
        }
    }
}
