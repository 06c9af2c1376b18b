//! [`Hub`]: models from the Hugging Face hub or a mirror, in the cache layout of Hugging Face's own tools:
//! `models--ORG--NAME/{blobs/<etag>, refs/<revision>, snapshots/<commit>/<file> → ../../blobs/<etag>}`.
//!
//! Source: `huggingface_hub`, "Understand caching" and `file_download.py`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cache::{cache_home, make_folder, variable};
use super::http::{Client, Expected};
use super::progress::Progress;
use crate::device::file;
use crate::error::{Error, Result};
use crate::model::cards;
use crate::model::checkpoint::weight_files;
use crate::model::spec::Spec;

/// The files that a model needs besides its weights, as far as it has them.
const SMALL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

/// The folder of a model: `name` itself if it is one, otherwise its snapshot in the cache.
///
/// # Errors
/// [`Error::File`] or [`Error::Setting`] with the `emlab fetch` command to run, if it is not there.
pub fn locate(name: &str) -> Result<PathBuf> {
    Hub::from_env()?.locate(name)
}

/// Where models come from and where they are kept.
pub struct Hub {
    cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

/// A model as a user names it: `ORG/NAME`, `ORG/NAME@REVISION`, or a card with or without `@REVISION`.
#[derive(Debug, PartialEq, Eq)]
struct Model {
    repo: String,
    revision: String,
}

/// The parts that are needed of the hub's description of a revision.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    #[serde(rename = "rfilename")]
    name: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Hub {
    /// Configured by the environment: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` or the token file,
    /// `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no home folder.
    pub fn from_env() -> Result<Self> {
        let home = match variable("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => cache_home()?.join("huggingface"),
        };
        let token_file = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = variable("HF_TOKEN").or_else(|| fs::read_to_string(token_file).ok());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let offline = variable("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
        Ok(Self {
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()),
        })
    }

    /// The same, with a mirror that has the hub's interface in place of the server.
    #[must_use]
    pub fn with_endpoint(self, endpoint: &str) -> Self {
        Self { endpoint: endpoint.trim_end_matches('/').to_owned(), ..self }
    }

    /// The cache folder.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The folder of a model: `name` itself if it is one, otherwise its snapshot in the cache, if that is complete.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Setting`] with the `emlab fetch` command to run, if it is not there.
    pub fn locate(&self, name: &str) -> Result<PathBuf> {
        let folder = Path::new(name);
        if folder.join("config.json").exists() {
            return Ok(folder.to_path_buf());
        }
        if folder.is_dir() {
            return Err(Error::file(folder, "contains no config.json: not a model folder"));
        }
        let model = Model::parse(name)?;
        let command = format!("run `emlab fetch {name}`");
        let Some(snapshot) = self.snapshot(&model) else {
            let Model { repo, revision } = model;
            let what = format!("{repo} at revision {revision} is not in the cache; {command}");
            return Err(Error::file(&self.cache, what));
        };
        let whole = ["config.json", "tokenizer.json"].iter().all(|file| snapshot.join(file).exists());
        if whole && weight_files(&snapshot).is_ok() {
            return Ok(snapshot);
        }
        Err(Error::file(snapshot, format!("is incomplete; {command}")))
    }

    /// Downloads what is missing of a model into the cache and returns its folder.
    ///
    /// # Errors
    /// [`Error::Setting`] if `name` names no model, or the model does not match its card; [`Error::Network`],
    /// [`Error::Io`] or [`Error::File`] naming what could not be downloaded or written.
    pub fn fetch(&self, name: &str, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        if let Ok(folder) = self.locate(name) {
            return Ok(folder);
        }
        let Model { repo, revision } = Model::parse(name)?;
        if self.offline {
            let what =
                format!("{repo} is not in the cache, and HF_HUB_OFFLINE forbids downloading it; unset it");
            return Err(Error::Setting(what));
        }
        let endpoint = &self.endpoint;
        let denied = format!(
            "a gated or private repository, or none of that name; accept its licence on {endpoint}/{repo} and set \
             HF_TOKEN to a token from {endpoint}/settings/tokens"
        );
        let client = Client::new(self.token.clone(), denied);
        let url = format!("{endpoint}/api/models/{repo}/revision/{revision}?blobs=true");
        let listing: Listing = client.json(&url)?;
        let commit = listing.sha.clone();
        let folder = self.folder(&repo);
        let snapshot = folder.join("snapshots").join(hexadecimal(&url, &commit)?);
        make_folder(&folder.join("blobs"))?;
        make_folder(&snapshot)?;
        for sibling in needed(&repo, listing)? {
            let (blob, expected) = sibling.expected(&url)?;
            let blob = folder.join("blobs").join(blob);
            if !blob.exists() {
                let url = format!("{endpoint}/{repo}/resolve/{commit}/{}", sibling.name);
                client.download(&url, &blob, &expected, progress)?;
            }
            link(&blob, &snapshot.join(&sibling.name))?;
        }
        if revision != commit {
            let reference = folder.join("refs").join(&revision);
            make_folder(reference.parent().unwrap_or(&folder))?;
            file::replace(&reference, |out| out.write_all(commit.as_bytes()))?;
        }
        if let Some(card) = cards::find(&repo) {
            card.check(&Spec::read(&snapshot)?)?;
        }
        weight_files(&snapshot)?;
        Ok(snapshot)
    }

    fn folder(&self, repo: &str) -> PathBuf {
        self.cache.join(format!("models--{}", repo.replace('/', "--")))
    }

    /// The snapshot of a revision in the cache, complete or not.
    fn snapshot(&self, model: &Model) -> Option<PathBuf> {
        let folder = self.folder(&model.repo);
        let reference = fs::read_to_string(folder.join("refs").join(&model.revision));
        let commit = reference.map_or_else(|_| model.revision.clone(), |commit| commit.trim().to_owned());
        Some(folder.join("snapshots").join(commit)).filter(|snapshot| snapshot.is_dir())
    }
}

impl Model {
    fn parse(name: &str) -> Result<Self> {
        let (id, revision) = name.split_once('@').map_or((name, None), |(id, revision)| (id, Some(revision)));
        let card = cards::find(id);
        let repo = card.as_ref().map_or(id, |card| card.repo.as_str()).to_owned();
        let plain = |part: &str| {
            let character = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.chars().all(character) && !part.starts_with('.') && !part.contains("--")
        };
        let parts: Vec<&str> = repo.split('/').collect();
        if parts.len() != 2 || !parts.iter().all(|part| plain(part)) || revision.is_some_and(|r| !plain(r)) {
            let what = format!(
                "{name}: neither a model folder nor ORG/NAME of the hub; `emlab models` lists known models"
            );
            return Err(Error::Setting(what));
        }
        let pinned = card.map_or("main".to_owned(), |card| card.revision);
        Ok(Self { repo, revision: revision.map_or(pinned, str::to_owned) })
    }
}

impl Sibling {
    /// The name of its blob, and what to expect of it: for a large file the sha256, for a small one git's id.
    fn expected(&self, url: &str) -> Result<(String, Expected<'_>)> {
        let (id, size, sha256) = match (&self.lfs, &self.blob_id) {
            (Some(lfs), _) => (&lfs.sha256, Some(lfs.size), Some(lfs.sha256.as_str())),
            (None, Some(id)) => (id, self.size, None),
            (None, None) => {
                let what = format!("does not list the checksum of {}; use another mirror", self.name);
                return Err(Error::Network { url: url.to_owned(), what });
            }
        };
        Ok((hexadecimal(url, id)?.to_owned(), Expected { name: &self.name, size, sha256 }))
    }
}

/// The files in a repository that a model needs, the small ones first.
fn needed(repo: &str, listing: Listing) -> Result<Vec<Sibling>> {
    let has = |name: &str| listing.siblings.iter().any(|file| file.name == name);
    if let Some(missing) = ["config.json", "tokenizer.json"].into_iter().find(|name| !has(name)) {
        return Err(Error::Setting(format!("{repo} contains no {missing}: not a model that emlab can run")));
    }
    let single = has("model.safetensors");
    let is_weights = |name: &str| {
        let shard =
            name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains(['/', '\\']);
        if single { name == "model.safetensors" } else { shard }
    };
    let is_small =
        |name: &str| SMALL_FILES.contains(&name) && !(single && name == "model.safetensors.index.json");
    let (small, rest): (Vec<_>, Vec<_>) = listing.siblings.into_iter().partition(|file| is_small(&file.name));
    let weights: Vec<_> = rest.into_iter().filter(|file| is_weights(&file.name)).collect();
    if weights.is_empty() {
        return Err(Error::Setting(format!(
            "{repo} contains no safetensors weights: not a model that emlab can run"
        )));
    }
    Ok(small.into_iter().chain(weights).collect())
}

/// Validates a checksum from a server, since it becomes a file name.
fn hexadecimal<'a>(url: &str, id: &'a str) -> Result<&'a str> {
    if !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(id);
    }
    Err(Error::Network {
        url: url.to_owned(),
        what: format!("the response was not understood: checksum {id:?}"),
    })
}

/// Links `path` (in `snapshots/<commit>/`) to a blob.
fn link(blob: &Path, path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    #[cfg(unix)]
    let made = {
        let relative = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(relative, path)
    };
    // Elsewhere, symbolic links require a privilege.
    #[cfg(not(unix))]
    let made = fs::hard_link(blob, path);
    made.map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::server::{Answer, Server};
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const WEIGHTS: &[u8] = b"weights";

    fn hub(cache: &Path, server: Option<&Server>) -> Hub {
        let endpoint = server.map_or_else(|| "http://127.0.0.1:9".to_owned(), |server| server.url(""));
        Hub { cache: cache.to_path_buf(), endpoint, token: None, offline: server.is_none() }
    }

    /// The responses of a server that has a model: the listing and three files, in the order of the requests.
    fn answers(sha256: &str) -> Vec<Answer> {
        let listing = json!({"sha": COMMIT, "siblings": [
            {"rfilename": "README.md", "size": 1, "blobId": "aa"},
            {"rfilename": "model.safetensors", "size": 7, "blobId": "bb",
             "lfs": {"sha256": sha256, "size": WEIGHTS.len(), "pointerSize": 1}},
            {"rfilename": "config.json", "size": 2, "blobId": "cc"},
            {"rfilename": "tokenizer.json", "size": 2, "blobId": "dd"},
            {"rfilename": "model-00001-of-00001.safetensors", "size": 2, "blobId": "ee"},
        ]});
        let body = |bytes: &[u8]| Answer::new(200, bytes);
        vec![body(listing.to_string().as_bytes()), body(b"{}"), body(b"[]"), body(WEIGHTS)]
    }

    fn sha256() -> String {
        use sha2::{Digest, Sha256};
        super::super::http::hex(&Sha256::digest(WEIGHTS))
    }

    #[test]
    fn a_model_comes_into_the_layout_of_the_shared_cache() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::new(answers(&sha256()));
        let snapshot = hub(dir.path(), Some(&server)).fetch("some/model", &mut |_| {}).unwrap();

        let folder = dir.path().join("models--some--model");
        assert_eq!(snapshot, folder.join("snapshots").join(COMMIT));
        assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
        assert_eq!(fs::read(folder.join("blobs/cc")).unwrap(), b"{}");
        let target = fs::read_link(snapshot.join("model.safetensors")).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(sha256()));
        assert_eq!(fs::read_dir(&snapshot).unwrap().count(), 3);
        let asked: Vec<_> = server.requests().iter().map(|r| r.lines().next().unwrap().to_owned()).collect();
        assert_eq!(asked[0], "GET /api/models/some/model/revision/main?blobs=true HTTP/1.1");
        assert_eq!(asked[3], format!("GET /some/model/resolve/{COMMIT}/model.safetensors HTTP/1.1"));

        // From now on no network is needed, by any of the names.
        let offline = hub(dir.path(), None);
        for name in ["some/model".to_owned(), "some/model@main".to_owned(), format!("some/model@{COMMIT}")] {
            assert_eq!(offline.fetch(&name, &mut |_| {}).unwrap(), snapshot);
        }
        fs::remove_file(folder.join("blobs").join(sha256())).unwrap();
        let message = offline.locate("some/model").unwrap_err().to_string();
        assert!(message.contains("incomplete") && message.contains("emlab fetch some/model"), "{message}");
    }

    #[test]
    fn a_wrong_checksum_leaves_no_model() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::new(answers(&"0".repeat(64)));
        let hub = hub(dir.path(), Some(&server));
        let message = hub.fetch("some/model", &mut |_| {}).unwrap_err().to_string();
        assert!(message.contains("model.safetensors") && message.contains("sha256"), "{message}");
        assert!(hub.locate("some/model").is_err());
    }

    #[test]
    fn refusals_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |answer| {
            let server = Server::new(vec![answer]);
            hub(dir.path(), Some(&server)).fetch("some/model", &mut |_| {}).unwrap_err().to_string()
        };
        let message = refused(Answer::new(401, b""));
        assert!(message.contains("HF_TOKEN") && message.contains("/some/model"), "{message}");
        let listing = json!({"sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}).to_string();
        assert!(refused(Answer::new(200, listing.as_bytes())).contains("tokenizer.json"));
        let listing = json!({"sha": "../..", "siblings": []}).to_string();
        assert!(refused(Answer::new(200, listing.as_bytes())).contains("checksum"));
    }

    #[test]
    fn names() {
        let dir = tempfile::tempdir().unwrap();
        let hub = hub(dir.path(), None);
        let message = hub.locate("qwen3-8b").unwrap_err().to_string();
        assert!(message.contains("Qwen/Qwen3-8B") && message.contains("emlab fetch qwen3-8b"), "{message}");
        for bad in ["nothing", "a/b/c", "../no-such-model", "a/..", "a b/c", "a/b@../x", ""] {
            let message = hub.locate(bad).unwrap_err().to_string();
            assert!(message.contains("emlab models"), "{message}");
        }
        let message = hub.locate(dir.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("config.json"), "{message}");
        assert_eq!(Model::parse("Qwen/Qwen3-8B@main").unwrap().revision, "main");
    }
}
