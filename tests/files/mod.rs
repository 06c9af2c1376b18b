//! The contents of a run's folder, for comparisons.

use std::path::{Path, PathBuf};

/// Every file in `dir` and the folders below it, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// The lines of every ledger in `dir` and below, sorted: whatever shards they lie in.
pub fn records(dir: &Path) -> Vec<String> {
    let is_shard = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jsonl");
    let mut lines = Vec::new();
    for path in files(dir).into_iter().filter(is_shard) {
        lines.extend(std::fs::read_to_string(path).unwrap().lines().map(String::from));
    }
    lines.sort();
    lines
}
