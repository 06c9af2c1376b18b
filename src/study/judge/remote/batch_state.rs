//! The batches in flight, on disk; see `batch.rs`.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::file;
use crate::study::store::{self, line};
use crate::{Error, Result};

/// How to recover from damage: without the state, results at the server cannot be assigned to requests.
const ADVICE: &str = "restore it, or cancel the batches at the server and delete this folder";

/// A file of requests in flight.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) number: usize,
    /// Our name for it at the server.
    pub(super) mark: String,
    /// How often it was submitted: the server may lack capacity at first.
    pub(super) attempt: usize,
    /// When it was made, in seconds since 1970.
    pub(super) made_at: u64,
    /// SHA-256 of its requests, in hexadecimal.
    sha256: String,
    /// Upper bound of its cost.
    pub(super) dollars: f64,
    /// Its id at the server, once it is uploaded.
    pub(super) file: Option<String>,
    /// The batch's id, once it is created.
    pub(super) batch: Option<String>,
}

impl Part {
    /// Our name for the batch at the server.
    pub(super) fn batch_mark(&self) -> String {
        format!("{}-{}", self.mark, self.attempt)
    }
}

/// The recorded state.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    /// Number of parts created so far.
    made: usize,
    under_way: Vec<Part>,
}

/// A judge's parts in flight. Every change is on disk before it takes effect.
pub(super) struct UnderWay {
    folder: PathBuf,
    state: Record,
    /// The requests of each part, by its number.
    keys: BTreeMap<usize, HashSet<String>>,
}

impl UnderWay {
    /// Reads the state; empty if there is none.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("state.json");
        let state: Record = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Record::default(),
            bytes => line::read(&bytes.map_err(Error::io(&path))?)
                .map_err(|what| Error::file(&path, format!("damaged: {what}; {ADVICE}")))?,
        };
        let mut under_way = Self { folder: folder.to_path_buf(), state, keys: BTreeMap::new() };
        for part in &under_way.state.under_way {
            let path = under_way.path(part.number);
            let text = String::from_utf8_lossy(&under_way.read(part)?).into_owned();
            let key = |(i, line): (usize, &str)| {
                let request = serde_json::from_str::<Value>(line).unwrap_or_default();
                let id = request["custom_id"].as_str().map(str::to_string);
                id.ok_or_else(|| Error::line(&path, i + 1, "damaged: no request with a custom_id"))
            };
            let keys = text.lines().enumerate().map(key).collect::<Result<_>>()?;
            under_way.keys.insert(part.number, keys);
        }
        under_way.clean()?;
        Ok(under_way)
    }

    /// Removes the files of parts that a killed process had not recorded yet, or had already finished.
    fn clean(&self) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Ok(()) };
        for entry in entries {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            let known = self.keys.keys().any(|&number| self.path(number) == path);
            if !known && path.extension().is_some_and(|extension| extension == "jsonl") {
                std::fs::remove_file(&path).map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }

    /// Every part in flight.
    pub(super) fn parts(&self) -> &[Part] {
        &self.state.under_way
    }

    /// Whether some part asks for `key`.
    pub(super) fn covers(&self, key: &str) -> bool {
        self.keys.values().any(|keys| keys.contains(key))
    }

    /// What a part asks for.
    pub(super) fn keys(&self, part: &Part) -> HashSet<String> {
        self.keys.get(&part.number).cloned().unwrap_or_default()
    }

    /// A part's requests, as they were written.
    pub(super) fn read(&self, part: &Part) -> Result<Vec<u8>> {
        let path = self.path(part.number);
        let requests = std::fs::read(&path).map_err(Error::io(&path))?;
        if store::sha256(&requests) != part.sha256 {
            return Err(Error::file(&path, format!("damaged: its checksum does not match; {ADVICE}")));
        }
        Ok(requests)
    }

    /// Writes and records a part with these requests, which can cost at most `dollars`.
    pub(super) fn add(&mut self, lines: &str, keys: HashSet<String>, dollars: f64) -> Result<()> {
        file::make_folder(&self.folder)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = self.state.made + 1;
        let sha256 = store::sha256(lines.as_bytes());
        let unique = format!("{sha256} {number} {} {}", now.as_nanos(), std::process::id());
        store::write_whole(&self.path(number), lines.as_bytes())?;
        self.state.made = number;
        self.state.under_way.push(Part {
            number,
            mark: store::sha256(unique.as_bytes())[..32].to_string(),
            attempt: 1,
            made_at: now.as_secs(),
            sha256,
            dollars,
            file: None,
            batch: None,
        });
        self.keys.insert(number, keys);
        self.save()
    }

    /// Records the new state of a part.
    pub(super) fn update(&mut self, part: &Part) -> Result<()> {
        for under_way in &mut self.state.under_way {
            if under_way.number == part.number {
                *under_way = part.clone();
            }
        }
        self.save()
    }

    /// Removes a part that is finished.
    pub(super) fn forget(&mut self, part: &Part) -> Result<()> {
        self.state.under_way.retain(|under_way| under_way.number != part.number);
        self.keys.remove(&part.number);
        self.save()?;
        let path = self.path(part.number);
        std::fs::remove_file(&path).map_err(Error::io(&path))
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("part-{number:04}.jsonl"))
    }

    fn save(&self) -> Result<()> {
        let mut state = Vec::new();
        line::write(&mut state, &self.state)
            .map_err(|error| Error::Run(format!("cannot write the state of the batches as JSON: {error}")))?;
        store::write_whole(&self.folder.join("state.json"), &state)
    }
}
