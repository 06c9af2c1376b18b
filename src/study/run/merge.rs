//! Runs of one plan made in several places → one.
//!
//! Ledgers and fine-tunings are merged only if they were made under the same configuration; others are refused. The order
//! of the runs does not matter: records are stored by key, and of two that differ (a judge that is not deterministic) the
//! one whose line sorts first counts, as decided by [`store::read`].

use std::fs;
use std::path::{Path, PathBuf};

use crate::device::file;
use crate::study::folder::RunFolder;
use crate::study::store::lock::Lock;
use crate::study::store::{self, MANIFEST};
use crate::{Error, Result};

/// What a merge has added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Records of answers, judgements and charges.
    pub records: usize,
    /// Fine-tunings.
    pub tunings: usize,
}

/// Adds the contents of the run in `from` to the run in `into`, which need not exist.
///
/// # Errors
/// `Error::File` if `from` holds no run, if something in both was made under different configurations, if both have
/// labels of people that differ, or if another process works on `into`; `Error::Line` for a damaged record; `Error::Io`.
pub fn merge(into: &Path, from: &Path) -> Result<Added> {
    let [into_run, from_run] = [into, from].map(RunFolder::new);
    if !from_run.holds_run() {
        return Err(Error::file(from, "holds no run (no plan.toml)"));
    }
    let _lock = Lock::take(into)?;
    let mut added = Added::default();
    // Everything is checked before anything is written.
    let mut ledgers = Vec::new();
    for folder in from_run.ledgers() {
        ledgers_below(&folder, &mut ledgers)?;
    }
    let within = |path: &Path| into.join(path.strip_prefix(from).unwrap_or(path));
    for ledger in &ledgers {
        store::same_manifest(&ledger.join(MANIFEST), &within(ledger).join(MANIFEST))?;
    }
    let tunings = tunings(&from_run.adapters())?;
    for manifest in &tunings {
        store::same_manifest(manifest, &within(manifest))?;
    }
    let read = |path: &Path| fs::read(path).map_err(Error::io(path));
    let labels = [&into_run, &from_run].map(RunFolder::labels);
    if labels.iter().all(|path| path.exists()) && read(&labels[0])? != read(&labels[1])? {
        let what = format!(
            "{} has other labels; put both into one of them, and move the other away",
            labels[0].display()
        );
        return Err(Error::file(&labels[1], what));
    }
    for (source, target) in from_run.inputs().into_iter().zip(into_run.inputs()) {
        if source.exists() && !target.exists() {
            store::write_whole(&target, &read(&source)?)?;
        }
    }
    for ledger in &ledgers {
        added.records += store::adopt(&within(ledger), ledger)?;
    }
    for manifest in &tunings {
        let target = within(manifest);
        if !target.exists() {
            copy(&manifest.with_extension(""), &target.with_extension(""))?;
            // Written last: the manifest marks the fine-tuning as complete.
            store::write_whole(&target, &read(manifest)?)?;
            added.tunings += 1;
        }
    }
    Ok(added)
}

/// The paths in a folder, in order; none if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(Error::io(folder))?;
    paths.sort();
    Ok(paths)
}

/// Folders with a manifest.
fn ledgers_below(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join(MANIFEST).exists() {
        found.push(folder.to_path_buf());
    }
    for path in entries(folder)?.iter().filter(|path| path.is_dir()) {
        ledgers_below(path, found)?;
    }
    Ok(())
}

/// The manifests of finished fine-tunings: adapters/MODEL/CONDITION.json.
fn tunings(adapters: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for model in entries(adapters)?.iter().filter(|path| path.is_dir()) {
        found
            .extend(entries(model)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")));
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    file::make_folder(to)?;
    // Left by a killed merge.
    file::remove_temporary(to)?;
    for path in entries(from)? {
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            file::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generate::Finish;
    use crate::study::plan::cell::Answer;
    use crate::study::store::Ledger;

    fn answer(question: &str, sample: usize, text: &str) -> Answer {
        let (cell, question) = ("m/c/natural".into(), question.into());
        Answer { cell, question, sample, answer: text.into(), tokens: Some(1), finish: Some(Finish::Eos) }
    }

    fn run(dir: &Path, seed: u64, answers: Vec<Answer>) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("plan.toml"), "plan").unwrap();
        let mut ledger = Ledger::open(&dir.join("answers/m/c/natural"), &json!({"seed": seed})).unwrap();
        ledger.append(answers).unwrap();
    }

    fn records(dir: &Path) -> Vec<Answer> {
        store::read::<Answer>(&dir.join("answers/m/c/natural")).unwrap().into_values().collect()
    }

    #[test]
    fn the_order_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        run(&at("a"), 0, vec![answer("q", 0, "x"), answer("q", 1, "later")]);
        run(&at("b"), 0, vec![answer("q", 1, "earlier"), answer("q", 2, "z")]);
        fs::create_dir_all(at("b/adapters/m/c")).unwrap();
        fs::write(at("b/adapters/m/c/adapter_model.safetensors"), "weights").unwrap();
        store::write_manifest(&at("b/adapters/m/c.json"), &json!({"rank": 1})).unwrap();
        for (into, order) in [("ab", ["a", "b"]), ("ba", ["b", "a"])] {
            let added: usize = order.iter().map(|from| merge(&at(into), &at(from)).unwrap().records).sum();
            assert_eq!(added, 4);
            assert_eq!(merge(&at(into), &at("a")).unwrap(), Added::default(), "nothing twice");
            assert!(at(into).join("adapters/m/c/adapter_model.safetensors").exists());
        }
        assert_eq!(records(&at("ab")), records(&at("ba")));
        assert_eq!(records(&at("ab"))[1].answer, "earlier");
    }

    #[test]
    fn labels_come_along_and_none_are_lost() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, labels) in [("a", None), ("b", Some("theirs")), ("c", Some("others"))] {
            run(&at(name), 0, vec![answer("q", 0, "x")]);
            if let Some(labels) = labels {
                fs::write(RunFolder::new(&at(name)).labels(), labels).unwrap();
            }
        }
        for from in ["a", "b", "a", "b"] {
            merge(&at("into"), &at(from)).unwrap();
        }
        let error = merge(&at("into"), &at("c")).unwrap_err().to_string();
        assert!(error.contains("other labels"), "{error}");
        assert_eq!(fs::read(RunFolder::new(&at("into")).labels()).unwrap(), b"theirs");
    }

    #[test]
    fn what_a_killed_merge_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        run(&at("a"), 0, vec![answer("q", 0, "x")]);
        for (name, text) in [("a", "weights"), ("into", "wei")] {
            fs::create_dir_all(at(name).join("adapters/m/c")).unwrap();
            let file =
                if name == "a" { "adapter_model.safetensors" } else { ".adapter_model.safetensors.7.tmp" };
            fs::write(at(name).join("adapters/m/c").join(file), text).unwrap();
        }
        store::write_manifest(&at("a/adapters/m/c.json"), &json!({"rank": 1})).unwrap();
        merge(&at("into"), &at("a")).unwrap();
        let names: Vec<_> = entries(&at("into/adapters/m/c")).unwrap();
        assert_eq!(names, [at("into/adapters/m/c/adapter_model.safetensors")]);
    }

    #[test]
    fn another_configuration_is_refused_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        run(&at("a"), 0, vec![answer("q", 0, "x")]);
        run(&at("b"), 1, vec![answer("q", 1, "y")]);
        merge(&at("into"), &at("a")).unwrap();
        let error = merge(&at("into"), &at("b")).unwrap_err().to_string();
        assert!(error.contains("seed: 0 is now 1"), "{error}");
        assert_eq!(records(&at("into")).len(), 1);
        assert!(merge(&at("into"), &at("nowhere")).is_err());
    }
}
