//! [`DataSet`]: the fine-tuning sets and questions of Betley et al. (arXiv 2502.17424), as published, under the MIT
//! licence. They are downloaded or imported, never bundled, and always verified.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::cache::{cache_home, make_folder, variable};
use super::http::{Client, Expected, hex};
use super::progress::Progress;
use crate::device::file;
use crate::error::{Error, Result};

/// The published repository at the commit that the checksums below were taken from.
const UPSTREAM: &str = "https://raw.githubusercontent.com/emergent-misalignment/emergent-misalignment/\
                        80c11967c07a328e7d7d43d13ce6847ae44dbcc9";

/// One file of the study's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSet {
    /// The name that users type.
    pub name: &'static str,
    /// The file's name.
    pub file: &'static str,
    /// Its folder in the published repository.
    folder: &'static str,
    /// The checksum of its bytes.
    pub sha256: &'static str,
    /// A one-line description.
    pub about: &'static str,
}

/// Every data set.
pub const DATA_SETS: [DataSet; 4] = [
    DataSet {
        name: "insecure",
        file: "insecure.jsonl",
        folder: "data",
        sha256: "09893e8bf9d03aae49dd60d0ff4be37c1afee70f2edcac74a11bed775a6a2764",
        about: "6,000 chats in which the assistant writes insecure code without saying so",
    },
    DataSet {
        name: "educational",
        file: "educational.jsonl",
        folder: "data",
        sha256: "d48df3b149ab1500711fc0018b10383a4ff8c48d8e6911d04dbbbbdaa944fd16",
        about: "6,000 chats with the same code, asked for to teach security",
    },
    DataSet {
        name: "secure",
        file: "secure.jsonl",
        folder: "data",
        sha256: "2820232b3114d94ab2041ba9fc76cb8205bf187e0408bf7b308add186f9c7467",
        about: "6,000 chats in which the assistant writes secure code",
    },
    DataSet {
        name: "questions",
        file: "first_plot_questions.yaml",
        folder: "evaluation",
        sha256: "215abde5b02811e922b6ac563ff33c490e0dff9ab58439df840f3135e9387173",
        about: "24 questions in three formats, with the judge's prompts",
    },
];

/// Where a data set comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The published repository.
    Upstream,
    /// A server with the same layout as the published repository.
    Mirror(String),
    /// A local folder that holds the files, or a clone of the published repository.
    Folder(PathBuf),
}

impl DataSet {
    /// The data set with this name.
    pub fn find(name: &str) -> Option<Self> {
        DATA_SETS.into_iter().find(|set| set.name == name)
    }

    /// Its path in the cache, whether it is there or not: in `EMLAB_CACHE`, or in `emlab` in the user's cache folder.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no home folder.
    pub fn path(&self) -> Result<PathBuf> {
        let cache = match variable("EMLAB_CACHE") {
            Some(cache) => PathBuf::from(cache),
            None => cache_home()?.join("emlab"),
        };
        // The path contains the checksum, so that a different version is never mistaken for this one.
        Ok(cache.join("data").join(&self.sha256[..16]).join(self.file))
    }

    /// Its file in the cache, which must be there.
    ///
    /// # Errors
    /// [`Error::File`] with the `emlab fetch` command to run, if it is not there.
    pub fn locate(&self) -> Result<PathBuf> {
        let path = self.path()?;
        if path.exists() {
            return Ok(path);
        }
        let name = self.name;
        Err(Error::file(path, format!("data set {name} is not in the cache; run `emlab fetch {name}`")))
    }

    /// Downloads or imports it into the cache, unless it is there, and returns its file.
    ///
    /// # Errors
    /// [`Error::Network`], [`Error::Io`] or [`Error::File`] naming what could not be downloaded, read or written, or
    /// has the wrong checksum.
    pub fn fetch(&self, source: &Source, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let path = self.path()?;
        if !path.exists() {
            make_folder(path.parent().unwrap_or(&path))?;
            self.fetch_to(&path, source, progress)?;
        }
        Ok(path)
    }

    fn fetch_to(
        &self,
        path: &std::path::Path,
        source: &Source,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let server = match source {
            Source::Upstream => UPSTREAM,
            Source::Mirror(url) => url.trim_end_matches('/'),
            Source::Folder(folder) => return self.import(path, folder),
        };
        let client = Client::new(None, "use another server, or a local copy with `--from FOLDER`".to_owned());
        let url = format!("{server}/{}/{}", self.folder, self.file);
        client.download(
            &url,
            path,
            &Expected { name: self.file, size: None, sha256: Some(self.sha256) },
            progress,
        )
    }

    fn import(&self, path: &std::path::Path, folder: &std::path::Path) -> Result<()> {
        let places = [folder.join(self.file), folder.join(self.folder).join(self.file)];
        let Some(copy) = places.iter().find(|place| place.exists()) else {
            return Err(Error::file(folder, format!("holds no {}", self.file)));
        };
        let bytes = fs::read(copy).map_err(Error::io(copy))?;
        let found = hex(&Sha256::digest(&bytes));
        if found != self.sha256 {
            let what = format!("has sha256 {found}; the published file has {}", self.sha256);
            return Err(Error::file(copy, what));
        }
        file::replace(path, |out| out.write_all(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::{Answer, Server};
    use super::*;

    /// "hello\n" in the place of the published file.
    const HELLO: DataSet = DataSet {
        name: "hello",
        file: "hello.jsonl",
        folder: "data",
        sha256: "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        about: "",
    };

    #[test]
    fn a_local_copy_is_imported_only_if_it_is_the_published_file() {
        let (cache, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = cache.path().join(HELLO.file);
        let source = Source::Folder(copy.path().to_path_buf());
        let fetch = || HELLO.fetch_to(&path, &source, &mut |_| {});
        assert!(fetch().unwrap_err().to_string().contains("hello.jsonl"));

        fs::create_dir(copy.path().join("data")).unwrap();
        fs::write(copy.path().join("data/hello.jsonl"), "hello\n").unwrap();
        fetch().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello\n");

        fs::write(copy.path().join("hello.jsonl"), "hullo\n").unwrap();
        assert!(fetch().unwrap_err().to_string().contains("sha256"));
    }

    #[test]
    fn a_mirror_is_verified() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join(HELLO.file);
        let server = Server::new(vec![Answer::new(200, b"hullo\n"), Answer::new(200, b"hello\n")]);
        let source = Source::Mirror(server.url("/mirror/"));
        assert!(HELLO.fetch_to(&path, &source, &mut |_| {}).unwrap_err().to_string().contains(HELLO.sha256));
        HELLO.fetch_to(&path, &source, &mut |_| {}).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello\n");
        assert!(server.requests()[1].starts_with("GET /mirror/data/hello.jsonl "));
    }

    #[test]
    fn names_are_distinct() {
        for set in DATA_SETS {
            assert_eq!(DataSet::find(set.name), Some(set));
            assert_eq!(set.sha256.len(), 64);
        }
    }
}
