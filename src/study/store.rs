//! What a run has produced, on disk: append-only JSON Lines that survive a kill or a power cut at any instant.
//!
//! A [`Ledger`] is a folder of records of one kind made under one configuration:
//!
//! ```text
//! manifest.json   {"version", "configuration", "sha256"}; written to a temporary name, then renamed
//! 0001.jsonl      what the first attempt produced, a record a line, each batch fsynced before it counts
//! 0002.jsonl      what the next attempt added
//! ```
//!
//! Reading merges the shards by the records' keys, in an order that depends on the records alone. A last line
//! without its newline is what a killed process leaves: it is dropped, and its record made again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The version of the layout above.
const VERSION: u64 = 1;

/// A line of a ledger.
pub trait Record: Serialize + DeserializeOwned {
    /// What there is one record of.
    type Key: Ord;
    /// This record's key.
    fn key(&self) -> Self::Key;
}

/// Records of one kind, made under one configuration.
#[derive(Debug)]
pub struct Ledger<R: Record> {
    folder: PathBuf,
    records: BTreeMap<R::Key, R>,
    /// The shard of this attempt, from the first record on.
    shard: Option<(PathBuf, File)>,
}

impl<R: Record> Ledger<R> {
    /// Opens the ledger in `folder`, or begins one there.
    ///
    /// # Errors
    /// `Error::File` if what is there was made under another configuration (naming the settings that differ);
    /// `Error::Line` for a damaged line; `Error::Io`.
    pub fn open(folder: &Path, configuration: &Value) -> Result<Self> {
        let manifest = folder.join(MANIFEST);
        if !check(&manifest, configuration)? {
            write_manifest(&manifest, configuration)?;
        }
        Ok(Self { folder: folder.to_path_buf(), records: read(folder)?, shard: None })
    }

    /// Every record, by key.
    pub fn records(&self) -> &BTreeMap<R::Key, R> {
        &self.records
    }

    /// Adds records; when this returns they are on the disk. A key that is there already keeps its record.
    ///
    /// # Errors
    /// `Error::Io` (a full disk, say): what was there stays.
    pub fn append(&mut self, records: Vec<R>) -> Result<()> {
        let new: Vec<R> = records.into_iter().filter(|r| !self.records.contains_key(&r.key())).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for record in &new {
            serde_json::to_writer(&mut lines, record).map_err(|error| impossible(&error))?;
            lines.push(b'\n');
        }
        if self.shard.is_none() {
            self.shard = Some(new_shard(&self.folder)?);
        }
        if let Some((path, file)) = &mut self.shard {
            file.write_all(&lines).and_then(|()| file.sync_data()).map_err(Error::io(&*path))?;
        }
        self.records.extend(new.into_iter().map(|record| (record.key(), record)));
        Ok(())
    }
}

/// A ledger's manifest within its folder.
pub const MANIFEST: &str = "manifest.json";

#[derive(Serialize, serde::Deserialize)]
struct Manifest {
    version: u64,
    configuration: Value,
    sha256: String,
}

impl Manifest {
    fn new(configuration: &Value) -> Self {
        Self { version: VERSION, configuration: configuration.clone(), sha256: sha256_json(configuration) }
    }
}

/// Writes the manifest that says what the things beside it were made under, making its folder if there is none.
///
/// # Errors
/// `Error::Io`.
pub fn write_manifest(path: &Path, configuration: &Value) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let manifest =
        serde_json::to_vec_pretty(&Manifest::new(configuration)).map_err(|error| impossible(&error))?;
    write_whole(path, &manifest)
}

/// Whether there is the manifest `path`, and so something that was made under `configuration`.
///
/// # Errors
/// `Error::File` if it was made under another one, naming the settings that differ.
pub fn check(path: &Path, configuration: &Value) -> Result<bool> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        text => text.map_err(Error::io(path))?,
    };
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| Error::file(path, format!("damaged: {error}")))?;
    if manifest.version != VERSION {
        let what = format!(
            "layout version {}, this emlab writes {VERSION}; use the emlab that made it",
            manifest.version
        );
        return Err(Error::file(path, what));
    }
    if manifest.sha256 != sha256_json(&manifest.configuration) {
        return Err(Error::file(path, "damaged: the configuration does not have the hash beside it"));
    }
    if manifest.sha256 != sha256_json(configuration) {
        let changes = differences("", &manifest.configuration, configuration).join(", ");
        let what =
            format!("was made with other settings ({changes}); restore them, or choose another folder");
        return Err(Error::file(path, what));
    }
    Ok(true)
}

/// Whether the manifest `new` may stand where `path` is: nothing is there, or what is there was made under the same
/// configuration.
///
/// # Errors
/// `Error::File` if it was made under another one, naming the settings that differ, or one of them is damaged.
pub fn same_manifest(new: &Path, path: &Path) -> Result<()> {
    let text = fs::read_to_string(new).map_err(Error::io(new))?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| Error::file(new, format!("damaged: {error}")))?;
    check(new, &manifest.configuration)?;
    check(path, &manifest.configuration).map(drop)
}

/// Adds to the ledger in `folder`, which need not exist, the records of the ledger in `from`, which was made under the
/// same configuration ([`same_manifest`]); how many lines are new.
///
/// # Errors
/// `Error::Line` for a line that is not JSON; `Error::Io`.
pub fn adopt(folder: &Path, from: &Path) -> Result<usize> {
    let lines = |folder: &Path| {
        let mut all = std::collections::BTreeSet::new();
        for path in shards(folder)? {
            let lines = whole_lines::<serde::de::IgnoredAny>(&path)?;
            all.extend(lines.into_iter().map(|(line, _)| line));
        }
        Result::Ok(all)
    };
    let (here, manifest) = (lines(folder)?, folder.join(MANIFEST));
    let new: Vec<String> = lines(from)?.into_iter().filter(|line| !here.contains(line)).collect();
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    if !manifest.exists() {
        let source = from.join(MANIFEST);
        write_whole(&manifest, &fs::read(&source).map_err(Error::io(&source))?)?;
    }
    if !new.is_empty() {
        let (path, mut file) = new_shard(folder)?;
        let text: String = new.iter().flat_map(|line| [&line[..], "\n"]).collect();
        file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(Error::io(&path))?;
    }
    Ok(new.len())
}

/// The lines of a shard that end, and what each says.
fn whole_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(String, T)>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let line = |(i, line): (usize, &[u8])| {
        let damaged = |what: String| Error::line(path, i + 1, format!("damaged record: {what}"));
        let line = std::str::from_utf8(line).map_err(|error| damaged(error.to_string()))?.trim_end();
        let record = serde_json::from_str(line).map_err(|error| damaged(error.to_string()))?;
        Ok((line.to_string(), record))
    };
    bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate().map(line).collect()
}

/// The SHA-256 of a JSON value written without spaces and with its keys sorted.
pub fn sha256_json(value: &Value) -> String {
    sha256(sorted(value).to_string().as_bytes())
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<_, _> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            Value::Object(map.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// The settings that differ, as `training.rank: 16 is now 32`.
fn differences(path: &str, old: &Value, new: &Value) -> Vec<String> {
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let missing = Value::Null;
        return keys
            .into_iter()
            .flat_map(|key| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&path, old.get(key).unwrap_or(&missing), new.get(key).unwrap_or(&missing))
            })
            .collect();
    }
    let short = |value: &Value| {
        let text = value.to_string();
        let end = text.char_indices().nth(40).map_or(text.len(), |(i, _)| i);
        if end < text.len() { format!("{}…", &text[..end]) } else { text }
    };
    if old == new { Vec::new() } else { vec![format!("{path}: {} is now {}", short(old), short(new))] }
}

/// Writes a file so that a reader sees the old bytes or the new ones, never a mixture.
///
/// # Errors
/// `Error::Io`.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    };
    write().map_err(Error::io(path))
}

/// Makes the name of `path` survive a power cut.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
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
    sync_folder(&path).map_err(Error::io(folder))?;
    Ok((path, file))
}

/// Reads and merges the shards. Where two records of one key differ (a judge that is not deterministic, asked on
/// two machines), the one whose line sorts first stays, whatever the order of the shards.
///
/// # Errors
/// `Error::Line` for a damaged line; `Error::Io`. A folder that does not exist holds no records.
pub fn read<R: Record>(folder: &Path) -> Result<BTreeMap<R::Key, R>> {
    let mut merged: BTreeMap<R::Key, (String, R)> = BTreeMap::new();
    for path in shards(folder)? {
        for (line, record) in whole_lines::<R>(&path)? {
            let key = record.key();
            if merged.get(&key).is_none_or(|(first, _)| line < *first) {
                merged.insert(key, (line, record));
            }
        }
    }
    Ok(merged.into_iter().map(|(key, (_, record))| (key, record)).collect())
}

/// Our own records and manifests always have a JSON form.
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
        fs::write(dir.path().join("0001.jsonl"), "{\"id\":1,\"text\":\"a\"}\n{\"id\":2,\"te\n").unwrap();
        let error = Ledger::<Line>::open(dir.path(), &json!({"a": 1})).unwrap_err().to_string();
        assert!(error.contains("0001.jsonl:2: damaged record"), "{error}");
        fs::write(dir.path().join(MANIFEST), "{\"version\":1,\"configuration\":{\"a\":1},\"sha256\":\"00\"}")
            .unwrap();
        let error = Ledger::<Line>::open(dir.path(), &json!({"a": 1})).unwrap_err().to_string();
        assert!(error.contains("does not have the hash"), "{error}");
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
            for (name, lines) in [("0001.jsonl", first), ("0002.jsonl", second)] {
                let text: String = lines.iter().map(|l| serde_json::to_string(l).unwrap() + "\n").collect();
                fs::write(dir.path().join(name), text).unwrap();
            }
            open(dir.path()).records().clone()
        };
        let (a, b) = ([line(1, "x"), line(2, "b")], [line(2, "a"), line(3, "c")]);
        assert_eq!(read(&a, &b), read(&b, &a));
    }
}
