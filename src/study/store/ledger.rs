//! What a run has produced, on disk: append-only JSON Lines that survive a kill or a power cut at any instant.
//!
//! A [`Ledger`] is a folder of records of one kind made under one configuration:
//!
//! ```text
//! manifest.json   {"version", "configuration", "sha256"}; written under a temporary name, then renamed
//! 0001.jsonl      what the first attempt produced, one record per line; a batch counts once it is fsynced
//! 0002.jsonl      what the next attempt added
//! ```
//!
//! Reading merges the shards by the records' keys, in an order that depends on the records alone. Every line ends in
//! its checksum (see `line.rs`); a mismatch is an error that names the damaged line. A killed process may leave a last
//! line without its newline: that line is dropped, and its record is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::line;
use super::manifest::{MANIFEST, check, write_manifest};
use super::write::write_whole;
use crate::device::file;
use crate::{Error, Result};

/// A line of a ledger.
pub trait Record: Serialize + DeserializeOwned {
    /// Identifies a record within its ledger.
    type Key: Ord;
    /// This record's key.
    fn key(&self) -> Self::Key;
}

/// Records of one kind, made under one configuration.
#[derive(Debug)]
pub struct Ledger<R: Record> {
    folder: PathBuf,
    records: BTreeMap<R::Key, R>,
    /// This attempt's shard; created with its first record.
    shard: Option<(PathBuf, File)>,
}

impl<R: Record> Ledger<R> {
    /// Opens the ledger in `folder`, or creates one there.
    ///
    /// # Errors
    /// `Error::File` if the existing ledger was made under another configuration, naming the settings that differ;
    /// `Error::Line` for a damaged line; `Error::Io`.
    pub fn open(folder: &Path, made_under: &impl Serialize) -> Result<Self> {
        let manifest = folder.join(MANIFEST);
        if !check(&manifest, made_under)? {
            write_manifest(&manifest, made_under)?;
        }
        Ok(Self { folder: folder.to_path_buf(), records: read(folder)?, shard: None })
    }

    /// Every record, by key.
    pub fn records(&self) -> &BTreeMap<R::Key, R> {
        &self.records
    }

    /// Adds records and returns once they are on disk. A record whose key exists already is ignored.
    ///
    /// # Errors
    /// `Error::Io`, for example if the disk is full; existing records stay intact.
    pub fn append(&mut self, records: Vec<R>) -> Result<()> {
        let new: Vec<R> = records.into_iter().filter(|r| !self.records.contains_key(&r.key())).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for record in &new {
            line::write(&mut lines, record).map_err(|error| impossible(&error))?;
        }
        if self.shard.is_none() {
            self.shard = Some(new_shard(&self.folder)?);
        }
        if let Some((path, mut file)) = self.shard.take() {
            // If a write fails half-way (a full disk), the shard is not used again: only its last line may be torn.
            file.write_all(&lines).and_then(|()| file.sync_data()).map_err(Error::io(&path))?;
            self.shard = Some((path, file));
        }
        self.records.extend(new.into_iter().map(|record| (record.key(), record)));
        Ok(())
    }
}

/// Adds to the ledger in `folder`, which need not exist, the records of the ledger in `from`, which was made under the
/// same configuration ([`same_manifest`](super::manifest::same_manifest)). Returns the number of new lines.
///
/// # Errors
/// `Error::Line` for a damaged line; `Error::Io`.
pub fn adopt(folder: &Path, from: &Path) -> Result<usize> {
    let lines = |folder: &Path| {
        let mut all = BTreeSet::new();
        for path in shards(folder)? {
            for line in whole_lines::<serde::de::IgnoredAny>(&path)? {
                all.insert(line?.0);
            }
        }
        Result::Ok(all)
    };
    let (here, manifest) = (lines(folder)?, folder.join(MANIFEST));
    let new: Vec<String> = lines(from)?.into_iter().filter(|line| !here.contains(line)).collect();
    file::make_folder(folder)?;
    if !manifest.exists() {
        let source = from.join(MANIFEST);
        write_whole(&manifest, &fs::read(&source).map_err(Error::io(&source))?)?;
    }
    if !new.is_empty() {
        let (path, mut file) = new_shard(folder)?;
        file.write_all(new.concat().as_bytes()).and_then(|()| file.sync_data()).map_err(Error::io(&path))?;
    }
    Ok(new.len())
}

/// The complete lines of a shard, parsed; an error for each damaged one.
fn whole_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<Result<(String, T)>>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let line = |(i, line): (usize, &[u8])| {
        let damaged = |what: String| {
            let advice = "delete the line, and what it held is made again";
            Error::line(path, i + 1, format!("damaged record: {what}; {advice}"))
        };
        let record = line::read(line).map_err(damaged)?;
        Ok((String::from_utf8_lossy(line).into_owned(), record))
    };
    Ok(bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate().map(line).collect())
}

/// The shards of a ledger's folder, oldest first.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(paths),
        entries => entries.map_err(Error::io(folder))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn new_shard(folder: &Path) -> Result<(PathBuf, File)> {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u32>().ok();
    let last = shards(folder)?.iter().filter_map(number).max().unwrap_or(0);
    let path = folder.join(format!("{:04}.jsonl", last + 1));
    let file = OpenOptions::new().create_new(true).append(true).open(&path).map_err(Error::io(&path))?;
    file::sync_folder(&path).map_err(Error::io(folder))?;
    Ok((path, file))
}

/// Reads and merges the shards. If two records with the same key differ (a judge that is not deterministic, asked on
/// two machines), the one whose line sorts first wins, whatever the order of the shards.
///
/// # Errors
/// `Error::Line` for a damaged line; `Error::Io`. A folder that does not exist holds no records.
pub fn read<R: Record>(folder: &Path) -> Result<BTreeMap<R::Key, R>> {
    let mut merged: BTreeMap<R::Key, (String, R)> = BTreeMap::new();
    for path in shards(folder)? {
        for line in whole_lines::<R>(&path)? {
            let (line, record) = line?;
            let key = record.key();
            if merged.get(&key).is_none_or(|(first, _)| line < *first) {
                merged.insert(key, (line, record));
            }
        }
    }
    Ok(merged.into_iter().map(|(key, (_, record))| (key, record)).collect())
}

/// What a ledger's folder holds, damaged or not.
#[derive(Debug)]
pub struct Survey<K> {
    /// Keys of the intact records.
    pub keys: BTreeSet<K>,
    /// A message for each damaged line.
    pub damage: Vec<String>,
    /// Records per minute in the newest shard since its first record; none if unknown.
    pub per_minute: Option<f64>,
}

/// Surveys the shards in `folder`. Another process may be appending to them.
///
/// # Errors
/// `Error::Io`.
pub fn survey<R: Record>(folder: &Path) -> Result<Survey<R::Key>> {
    let mut survey = Survey { keys: BTreeSet::new(), damage: Vec::new(), per_minute: None };
    for path in shards(folder)? {
        let lines = whole_lines::<R>(&path)?;
        survey.per_minute = per_minute(&path, lines.len());
        for line in lines {
            match line {
                Ok((_, record)) => drop(survey.keys.insert(record.key())),
                Err(error) => survey.damage.push(error.to_string()),
            }
        }
    }
    Ok(survey)
}

/// Lines per minute between a shard's creation, which comes with its first line, and its last change. Not every file
/// system records creation times, and clocks may be set.
fn per_minute(path: &Path, lines: usize) -> Option<f64> {
    let metadata = fs::metadata(path).ok()?;
    let minutes =
        metadata.modified().ok()?.duration_since(metadata.created().ok()?).ok()?.as_secs_f64() / 60.0;
    (lines > 1 && minutes > 0.0).then(|| (lines - 1) as f64 / minutes)
}

/// Our own records always have a JSON form.
fn impossible(error: &serde_json::Error) -> Error {
    Error::Run(format!("cannot write a record as JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Line {
        id: u32,
        text: String,
    }
    impl Record for Line {
        type Key = u32;
        fn key(&self) -> u32 {
            self.id
        }
    }
    fn line(id: u32, text: &str) -> Line {
        Line { id, text: text.into() }
    }
    fn lines(records: &[Line]) -> String {
        let mut lines = Vec::new();
        for record in records {
            super::line::write(&mut lines, record).unwrap();
        }
        String::from_utf8(lines).unwrap()
    }
    fn open(dir: &Path) -> Ledger<Line> {
        Ledger::open(dir, &json!({"a": 1})).unwrap()
    }

    #[test]
    fn attempts_add_up_and_nothing_is_doubled() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).append(vec![line(1, "a"), line(2, "b")]).unwrap();
        let mut second = open(dir.path());
        assert_eq!(second.records().len(), 2);
        second.append(vec![line(2, "other"), line(3, "c")]).unwrap();
        second.append(vec![line(4, "d")]).unwrap();
        let third = open(dir.path());
        assert_eq!(third.records().values().map(|r| r.text.as_str()).collect::<String>(), "abcd");
        assert_eq!(shards(dir.path()).unwrap().len(), 2);
        drop(open(dir.path()));
        assert_eq!(shards(dir.path()).unwrap().len(), 2, "an attempt that adds nothing leaves no shard");
    }

    #[test]
    fn a_torn_last_line_is_made_again_wherever_it_tore() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).append(vec![line(1, "first"), line(2, "zweite Zeile: ü")]).unwrap();
        let shard = dir.path().join("0001.jsonl");
        let whole = fs::read(&shard).unwrap();
        let first = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
        for cut in first..whole.len() {
            fs::write(&shard, &whole[..cut]).unwrap();
            let mut ledger = open(dir.path());
            assert_eq!(ledger.records().len(), 1, "cut at {cut}");
            ledger.append(vec![line(2, "zweite Zeile: ü")]).unwrap();
            assert_eq!(open(dir.path()).records().len(), 2);
            fs::remove_file(dir.path().join("0002.jsonl")).unwrap();
        }
    }

    #[test]
    fn damage_inside_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path()).unwrap();
        open(dir.path());
        let text = lines(&[line(1, "a")]) + "{\"id\":2,\"te\n";
        fs::write(dir.path().join("0001.jsonl"), text).unwrap();
        let error = Ledger::<Line>::open(dir.path(), &json!({"a": 1})).unwrap_err().to_string();
        assert!(error.contains("0001.jsonl:2: damaged record"), "{error}");
        fs::write(dir.path().join(MANIFEST), "{\"version\":1,\"configuration\":{\"a\":1},\"sha256\":\"00\"}")
            .unwrap();
        let error = Ledger::<Line>::open(dir.path(), &json!({"a": 1})).unwrap_err().to_string();
        assert!(error.contains("layout version 1"), "{error}");
        fs::write(dir.path().join(MANIFEST), "{\"version\":2,\"configuration\":{\"a\":1},\"sha256\":\"00\"}")
            .unwrap();
        let error = Ledger::<Line>::open(dir.path(), &json!({"a": 1})).unwrap_err().to_string();
        assert!(error.contains("does not match its hash"), "{error}");
    }

    #[test]
    fn a_flipped_byte_is_damage_and_never_another_value() {
        let dir = tempfile::tempdir().unwrap();
        let records = [line(1, "12"), line(2, "J\u{fc}rgen * \"quoted\""), line(3, "Ende")];
        let whole = lines(&records).into_bytes();
        let shard = dir.path().join("0001.jsonl");
        let mut torn = 0;
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&shard, &flipped).unwrap();
                match read::<Line>(dir.path()) {
                    Err(error) => {
                        let error = error.to_string();
                        let place = flipped[..at].split(|&byte| byte == b'\n').count();
                        assert!(error.contains(&format!("0001.jsonl:{place}: damaged record")), "{error}");
                    }
                    // Without the last newline the last line is a torn one.
                    Ok(found) => {
                        torn += 1;
                        assert_eq!(at, whole.len() - 1);
                        assert!(found.into_values().eq(records[..records.len() - 1].iter().cloned()));
                    }
                }
            }
        }
        assert_eq!(torn, 8);
    }

    #[test]
    fn another_configuration_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let old = json!({"training": {"rank": 16, "seed": 0}, "gone": true});
        Ledger::<Line>::open(dir.path(), &old).unwrap();
        Ledger::<Line>::open(dir.path(), &json!({"gone": true, "training": {"seed": 0, "rank": 16}}))
            .unwrap();
        let new = json!({"training": {"rank": 32, "seed": 0}});
        let error = Ledger::<Line>::open(dir.path(), &new).unwrap_err().to_string();
        assert!(error.contains("gone: true is now null, training.rank: 16 is now 32"), "{error}");
    }

    #[test]
    fn merging_does_not_depend_on_the_order_of_shards() {
        let read = |first: &[Line], second: &[Line]| {
            let dir = tempfile::tempdir().unwrap();
            open(dir.path());
            for (name, records) in [("0001.jsonl", first), ("0002.jsonl", second)] {
                fs::write(dir.path().join(name), lines(records)).unwrap();
            }
            open(dir.path()).records().clone()
        };
        let (a, b) = ([line(1, "x"), line(2, "b")], [line(2, "a"), line(3, "c")]);
        assert_eq!(read(&a, &b), read(&b, &a));
    }
}
