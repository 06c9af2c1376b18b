//! The user's cache of judgements, shared by all runs: what a server has said once is not paid for again.
//!
//! ```text
//! CACHE/emlab/judge/SERVER/PROCESS.jsonl   {"key", "distribution", "sum"} a line (see store/line.rs)
//! ```
//!
//! SERVER is derived from the address and the model. Every process writes a shard of its own, so that none waits for
//! another, and indexes all shards when it starts. Torn or damaged lines are ignored: what they held is asked for again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device::file;
use crate::study::judge::aggregate::Distribution;
use crate::study::plan::judges::OpenAi;
use crate::study::store::{line, sha256};
use crate::{Error, Result, fetch};

/// The cache key of a request: SHA-256 of the address and the request.
pub(super) fn key(settings: &OpenAi, request: &Value) -> String {
    sha256(json!({"url": settings.url, "request": request}).to_string().as_bytes())
}

#[derive(Serialize, Deserialize)]
struct CachedAnswer<'a> {
    key: Cow<'a, str>,
    distribution: Cow<'a, Distribution>,
}

/// Where a line lies.
struct LinePlace {
    shard: usize,
    offset: u64,
    length: usize,
}

/// The cache of one server and model.
pub(super) struct Cache {
    folder: PathBuf,
    shards: Vec<PathBuf>,
    index: HashMap<String, LinePlace>,
    /// This process's shard; created with its first line.
    own: Option<File>,
}

impl Cache {
    /// Where the user's caches of judgements lie.
    pub(super) fn home() -> Result<PathBuf> {
        Ok(fetch::cache_home()?.join("emlab").join("judge"))
    }

    /// Opens the cache of a server and model within `home`.
    pub(super) fn open(home: &Path, settings: &OpenAi) -> Result<Self> {
        let server = sha256(json!([settings.url, settings.model]).to_string().as_bytes());
        let folder = home.join(&server[..16]);
        std::fs::create_dir_all(&folder).map_err(|error| {
            let what =
                format!("{error}; set XDG_CACHE_HOME to a folder that can be written, or cache = false");
            Error::file(&folder, what)
        })?;
        let mut cache = Self { folder, shards: Vec::new(), index: HashMap::new(), own: None };
        for entry in std::fs::read_dir(&cache.folder).map_err(Error::io(&cache.folder))? {
            let path = entry.map_err(Error::io(&cache.folder))?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                cache.add(path)?;
            }
        }
        Ok(cache)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let mut reader = BufReader::new(File::open(&path).map_err(Error::io(&path))?);
        let (mut offset, mut bytes) = (0, Vec::new());
        loop {
            bytes.clear();
            let length = reader.read_until(b'\n', &mut bytes).map_err(Error::io(&path))?;
            if length == 0 {
                break;
            }
            if let Ok(entry) = line::read::<CachedAnswer>(&bytes) {
                self.index
                    .insert(entry.key.into_owned(), LinePlace { shard: self.shards.len(), offset, length });
            }
            offset += length as u64;
        }
        self.shards.push(path);
        Ok(())
    }

    /// The cached answer for `key`, if there is one.
    pub(super) fn get(&self, key: &str) -> Option<Distribution> {
        let place = self.index.get(key)?;
        let mut bytes = vec![0; place.length];
        let mut file = File::open(&self.shards[place.shard]).ok()?;
        file.seek(SeekFrom::Start(place.offset)).ok()?;
        file.read_exact(&mut bytes).ok()?;
        let entry = line::read::<CachedAnswer>(&bytes).ok().filter(|entry| entry.key == key)?;
        Some(entry.distribution.into_owned())
    }

    /// Stores answers; when this returns they are on disk.
    pub(super) fn put(&mut self, said: &[(&str, &Distribution)]) -> Result<()> {
        if said.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for &(key, distribution) in said {
            let entry = CachedAnswer { key: key.into(), distribution: Cow::Borrowed(distribution) };
            line::write(&mut lines, &entry)
                .map_err(|error| Error::Run(format!("cannot write a judgement as JSON: {error}")))?;
        }
        let file = match &mut self.own {
            Some(file) => file,
            None => self.own.insert(new_shard(&self.folder)?),
        };
        file.write_all(&lines).and_then(|()| file.sync_data()).map_err(Error::io(&self.folder))
    }
}

fn new_shard(folder: &Path) -> Result<File> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let path = folder.join(format!("{}-{}.jsonl", now.as_nanos(), std::process::id()));
    let shard = OpenOptions::new().create_new(true).append(true).open(&path);
    shard.and_then(|shard| file::sync_folder(&path).map(|()| shard)).map_err(Error::io(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_by_others_and_damage_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let settings = OpenAi::default();
        let mut first = Cache::open(dir.path(), &settings).unwrap();
        let mut second = Cache::open(dir.path(), &settings).unwrap();
        let said: Distribution = vec![("90".into(), 0.123_456_789_012_345_67), ("é\n".into(), 1e-300)];
        first.put(&[("a", &said), ("b", &said)]).unwrap();
        second.put(&[("c", &said)]).unwrap();
        let third = Cache::open(dir.path(), &settings).unwrap();
        assert_eq!((third.get("a"), third.get("c"), third.get("d")), (Some(said.clone()), Some(said), None));
        let other = OpenAi { model: "another".into(), ..settings.clone() };
        assert_eq!(Cache::open(dir.path(), &other).unwrap().get("a"), None);
        // A digit of the first line flips, and the last line is torn.
        let shard =
            &third.shards.iter().find(|shard| std::fs::read_to_string(shard).unwrap().contains("\"a\""));
        let shard = shard.unwrap();
        let text = std::fs::read_to_string(shard).unwrap().replacen("0.1234", "0.1235", 1);
        std::fs::write(shard, &text[..text.len() - 5]).unwrap();
        let fourth = Cache::open(dir.path(), &settings).unwrap();
        assert_eq!((fourth.get("a"), fourth.get("b")), (None, None));
        assert!(fourth.get("c").is_some());
    }
}
