//! The rules of the house, held against the sources. A failure lists every violation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::scan::{scan, unsafe_lines};
use super::tree::{Tree, circles};

/// Each layer and what it may use besides itself and [`COMMON`].
const LAYERS: [(&str, &[&str]); 9] = [
    ("device", &[]),
    ("ops", &["device"]),
    ("model", &["device", "ops"]),
    ("train", &["device", "ops", "model"]),
    ("generate", &["device", "ops", "model"]),
    ("inspect", &["device", "ops", "model"]),
    ("bench", &["device", "ops", "model"]),
    ("fetch", &["device", "model"]),
    ("study", &["device", "ops", "model", "train", "generate", "fetch"]),
];

/// Modules that every layer may use; they use no layer.
const COMMON: [&str; 4] = ["error", "html", "interrupt", "progress"];

/// The rooms of `study`, lowest first: a room uses only those before it.
const ROOMS: [&str; 9] = ["stats", "store", "csv", "plan", "folder", "judge", "analyze", "report", "run"];

/// The most files that a folder of `study` holds.
const FILES: usize = 14;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn tree() -> Tree {
    Tree::new(&|file| std::fs::read_to_string(root().join(file)).ok())
}

/// Every file below a folder, relative to `src`.
fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let relative = path.strip_prefix(root()).expect("a file of src");
            found.push(relative.to_str().expect("a plain name").to_owned());
        }
    }
    found.sort();
}

/// The Rust of the crate: each file and its text, tests and the program included.
fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    let rust = found.into_iter().filter(|file| Path::new(file).extension().is_some_and(|e| e == "rs"));
    rust.map(|file| (std::fs::read_to_string(root().join(&file)).expect("a source file"), file))
        .map(|(text, file)| (file, text))
        .collect()
}

/// Fails with a list, if there is something on it.
fn none(what: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{what} ({}):\n{}\n", violations.len(), violations.join("\n"));
}

/// Why `layer` may not use `other`, if it may not.
fn wrong_layer(layer: &str, other: &str) -> Option<String> {
    if other == layer || COMMON.contains(&other) {
        return None;
    }
    match LAYERS.iter().find(|(name, _)| *name == layer) {
        Some((_, below)) if below.contains(&other) => None,
        None if !COMMON.contains(&layer) => Some(format!("{layer} is no layer of LAYERS")),
        _ => Some(format!("{layer} uses {other}")),
    }
}

#[test]
fn no_layer_uses_one_above_or_beside_it() {
    let tree = tree();
    let mut wrong = Vec::new();
    for (file, (module, _)) in &tree.sources {
        let Some(layer) = module.first() else { continue };
        for edge in tree.mentions(file) {
            let others = edge.target.through.iter().filter_map(|module| module.first());
            let reasons = others.filter_map(|other| wrong_layer(layer, other));
            wrong.extend(reasons.map(|reason| format!("src/{file}:{}: {reason}", edge.line)));
        }
    }
    wrong.dedup();
    none("arrows between layers that point the wrong way", &wrong);
}

/// Why `room` may not use `other`, if it may not.
fn wrong_room(room: &str, other: &str) -> Option<String> {
    let place = |room: &str| ROOMS.iter().position(|name| *name == room);
    match (place(room), place(other)) {
        _ if room == other => None,
        (Some(room), Some(other)) if other < room => None,
        (None, _) => Some(format!("{room} is no room")),
        _ => Some(format!("{room} uses {other}")),
    }
}

#[test]
fn no_room_of_study_uses_one_above_it() {
    let tree = tree();
    let mut wrong = Vec::new();
    for (file, (module, _)) in &tree.sources {
        let [layer, room, ..] = &module[..] else { continue };
        if layer != "study" {
            continue;
        }
        if !ROOMS.contains(&room.as_str()) {
            wrong.push(format!("src/{file}: {room} is no room ({})", ROOMS.join(", ")));
            continue;
        }
        for edge in tree.mentions(file) {
            let through = edge.target.through.iter().filter(|module| module.first() == Some(layer));
            let others = through.filter_map(|module| module.get(1));
            let reasons = others.filter_map(|other| wrong_room(room, other));
            wrong.extend(reasons.map(|reason| format!("src/{file}:{}: {reason}", edge.line)));
            if edge.target.through.last() == Some(&vec![layer.clone()]) {
                wrong.push(format!("src/{file}:{}: {room} uses the top of study", edge.line));
            }
        }
    }
    wrong.dedup();
    none("arrows between rooms that point the wrong way", &wrong);
}

/// A circle's files, and which needs which where.
fn shown(circle: &[String], needs: &BTreeMap<String, BTreeMap<String, usize>>) -> String {
    let mut text = format!("a circle of {} files: {}", circle.len(), circle.join(" "));
    for file in circle {
        for (other, line) in needs[file].iter().filter(|(other, _)| circle.contains(other)) {
            text = format!("{text}\n    src/{file}:{line} needs {other}");
        }
    }
    text
}

#[test]
fn no_files_of_study_model_and_device_form_a_circle() {
    let tree = tree();
    let needs = tree.needs();
    let mut found = Vec::new();
    for layer in ["study", "model", "device"] {
        let inside = |file: &String| file.starts_with(&format!("{layer}/"));
        let own = needs.iter().filter(|(file, _)| inside(file));
        let own = own.map(|(file, needed)| {
            let needed = needed.iter().filter(|(other, _)| inside(other));
            (file.clone(), needed.map(|(other, line)| (other.clone(), *line)).collect())
        });
        let own: BTreeMap<_, _> = own.collect();
        assert!(!own.is_empty(), "{layer} has no source");
        found.extend(circles(&own).iter().map(|circle| shown(circle, &own)));
    }
    none("circles", &found);
}

#[test]
fn every_path_of_the_crate_leads_to_a_definition() {
    none("paths that the scanner cannot follow", &tree().unknown());
}

#[test]
fn no_folder_of_study_holds_many_files() {
    let mut found = Vec::new();
    files(&root().join("study"), &mut found);
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in &found {
        let (folder, name) = file.rsplit_once('/').expect("a file of study");
        folders.entry(folder).or_default().push(name);
    }
    let full = folders.iter().filter(|(_, files)| files.len() > FILES);
    let full: Vec<String> = full
        .map(|(folder, files)| format!("src/{folder} holds {} files: {}", files.len(), files.join(" ")))
        .collect();
    none("folders with too many files", &full);
}

#[test]
fn every_mod_rs_is_a_map() {
    let mut more = Vec::new();
    for (file, text) in texts().iter().filter(|(file, _)| file.ends_with("/mod.rs")) {
        let lines = scan(text).more_than_a_map;
        if !lines.is_empty() {
            let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
            more.push(format!("src/{file}: items on lines {}", lines.join(", ")));
        }
    }
    none("mod.rs files that are more than a map", &more);
}

#[test]
fn unsafe_lives_in_the_device_layer_and_in_launches() {
    let mut wrong = Vec::new();
    for (file, text) in texts().iter().filter(|(file, _)| !file.starts_with("device/")) {
        let launches = file.starts_with("ops/");
        for (line, cuda) in unsafe_lines(text) {
            if !(launches && (cuda || file.ends_with("/cuda.rs"))) {
                wrong.push(format!("src/{file}:{line}: unsafe outside a launch"));
            }
        }
    }
    none("unsafe where it does not belong", &wrong);
}
