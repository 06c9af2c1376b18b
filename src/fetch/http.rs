//! `Client`: GET requests with retries; downloads resume where they stopped and are verified.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;

use super::progress::Progress;
use crate::device::file;
use crate::error::{Error, Result};

/// Attempts without any progress before a download fails.
const TRIES: u32 = 5;
/// The longest wait that a server can impose with Retry-After.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// The maximum size of a response that is not a file, in bytes.
const LARGEST_ANSWER: u64 = 16 << 20;

/// A client for one server.
pub(super) struct Client {
    agent: ureq::Agent,
    token: Option<String>,
    /// Advice to the user when access is denied (401, 403).
    denied: String,
    /// The wait before the first retry; it doubles with each further one.
    pause: Duration,
}

/// What is known about a file before it is downloaded.
pub(super) struct Expected<'a> {
    pub(super) name: &'a str,
    pub(super) size: Option<u64>,
    /// In hexadecimal.
    pub(super) sha256: Option<&'a str>,
}

/// The result of one attempt.
type Attempt<T> = std::result::Result<T, Failure>;

/// Why one attempt failed.
enum Failure {
    /// A retry would fail the same way.
    Final(Error),
    /// A busy server or a broken connection: worth a retry, after a time that the server may name.
    Passing(String, Option<Duration>),
}

impl Client {
    /// A client that sends `token` to this server, and to no other that it is redirected to.
    pub(super) fn new(token: Option<String>, denied: String) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("emlab/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        Self { agent: config.build().into(), token, denied, pause: Duration::from_secs(1) }
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// [`Error::Network`] naming the address and the server's response.
    pub(super) fn json<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        let mut retries = Retries::new(self.pause);
        loop {
            match self.try_json(url) {
                Ok(value) => return Ok(value),
                Err(failure) => retries.wait(url, failure)?,
            }
        }
    }

    fn try_json<T: DeserializeOwned>(&self, url: &str) -> Attempt<T> {
        let mut response = self.get(url, 0)?;
        let text = response.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec();
        let text = text.map_err(|e| Failure::Passing(e.to_string(), None))?;
        serde_json::from_slice(&text)
            .map_err(|e| Failure::Final(network(url, format!("the response was not understood: {e}"))))
    }

    /// Downloads a file to `target`, by way of `target.incomplete`, from which a later call resumes.
    ///
    /// # Errors
    /// [`Error::Network`] naming the address; [`Error::Io`] if a file cannot be written; [`Error::File`] if another
    /// process is downloading the same file, or if it turns out to be wrong.
    pub(super) fn download(
        &self,
        url: &str,
        target: &Path,
        expected: &Expected,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let mut partial = Partial::open(target)?;
        if expected.size.is_some_and(|size| partial.length > size) {
            partial.restart()?;
        }
        let mut retries = Retries::new(self.pause);
        while expected.size.is_none_or(|size| partial.length < size) {
            let before = partial.length;
            match self.receive(url, &mut partial, expected, progress) {
                Ok(()) => break,
                Err(failure) => {
                    // A download survives any number of broken connections, as long as each makes progress.
                    if partial.length > before {
                        retries = Retries::new(self.pause);
                    }
                    retries.wait(url, failure)?;
                }
            }
        }
        partial.finish(target, expected)
    }

    /// Requests what is still missing and appends it as it arrives.
    fn receive(
        &self,
        url: &str,
        partial: &mut Partial,
        expected: &Expected,
        progress: &mut dyn FnMut(Progress),
    ) -> Attempt<()> {
        let response = self.get(url, partial.length)?;
        let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
        let goes_on = range.is_some_and(|range| range.starts_with(&format!("bytes {}-", partial.length)));
        if response.status() != 206 || !goes_on {
            partial.restart().map_err(Failure::Final)?;
        }
        match response.status().as_u16() {
            206 if !goes_on => {
                return Err(Failure::Passing("sent a different range from the one requested".into(), None));
            }
            416 => return Err(Failure::Passing("416 Range Not Satisfiable".into(), None)),
            _ => {}
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = body.read(&mut buffer).map_err(|e| Failure::Passing(e.to_string(), None))?;
            if read == 0 {
                break;
            }
            partial.append(&buffer[..read]).map_err(Failure::Final)?;
            progress(Progress { file: expected.name, done: partial.length, total: expected.size });
        }
        match expected.size {
            Some(size) if partial.length < size => Err(Failure::Passing(
                format!("the connection closed after {} of {size} bytes", partial.length),
                None,
            )),
            _ => Ok(()),
        }
    }

    /// Requests `url` from byte `from` on. Returns responses with status 200, 206 or 416; all others are failures.
    fn get(&self, url: &str, from: u64) -> Attempt<Response<Body>> {
        // Sizes, ranges and checksums refer to the uncompressed file.
        let mut request = self.agent.get(url).header("accept-encoding", "identity");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => {
                Failure::Passing(error.to_string(), None)
            }
            other => Failure::Final(network(url, other.to_string())),
        })?;
        let status = response.status();
        match status.as_u16() {
            200 | 206 | 416 => Ok(response),
            401 | 403 => Err(Failure::Final(network(url, format!("{status}: {}", self.denied)))),
            404 => Err(Failure::Final(network(url, format!("{status}: check the name and the revision")))),
            408 | 429 | 500.. => {
                let wait = response.headers().get("retry-after");
                let seconds = wait.and_then(|value| value.to_str().ok()?.parse().ok());
                Err(Failure::Passing(status.to_string(), seconds.map(Duration::from_secs)))
            }
            _ => Err(Failure::Final(network(url, status.to_string()))),
        }
    }
}

/// Counts consecutive failures and waits between them.
struct Retries {
    failures: u32,
    pause: Duration,
}

impl Retries {
    fn new(pause: Duration) -> Self {
        Self { failures: 0, pause }
    }

    /// Returns when it is time to retry.
    fn wait(&mut self, url: &str, failure: Failure) -> Result<()> {
        let (what, wait) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(what, wait) => (what, wait),
        };
        self.failures += 1;
        if self.failures == TRIES {
            return Err(network(
                url,
                format!("{what} (tried {TRIES} times); run the command again to resume"),
            ));
        }
        std::thread::sleep(wait.unwrap_or(self.pause).min(LONGEST_WAIT));
        self.pause *= 2;
        Ok(())
    }
}

/// The part of a file that has been downloaded, locked against other processes, with the checksum so far.
struct Partial {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
}

impl Partial {
    /// Opens `target.incomplete`, new or left by an earlier attempt, and adds its content to the checksum.
    fn open(target: &Path) -> Result<Self> {
        let mut name = target.as_os_str().to_owned();
        name.push(".incomplete");
        let path = PathBuf::from(name);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(Error::io(&path))?;
        // On file systems without locks, the download goes ahead unlocked.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::file(
                path,
                "another process is downloading this file; wait until it has finished",
            ));
        }
        let mut hasher = Sha256::new();
        let length = std::io::copy(&mut file, &mut hasher).map_err(Error::io(&path))?;
        Ok(Self { path, file, hasher, length })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io(&self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(Error::io(&self.path))?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Verifies the complete file and moves it to `target`.
    fn finish(self, target: &Path, expected: &Expected) -> Result<()> {
        let found = hex(&self.hasher.finalize());
        let wrong = match (expected.size, expected.sha256) {
            (Some(size), _) if size != self.length => {
                Some(format!("has {} bytes, expected {size}", self.length))
            }
            (_, Some(sha256)) if sha256 != found => Some(format!("has sha256 {found}, expected {sha256}")),
            _ => None,
        };
        if let Some(wrong) = wrong {
            std::fs::remove_file(&self.path).map_err(Error::io(&self.path))?;
            let what =
                format!("the download of {} {wrong}; it was deleted, run the command again", expected.name);
            return Err(Error::file(target, what));
        }
        self.file.sync_all().map_err(Error::io(&self.path))?;
        std::fs::rename(&self.path, target)
            .and_then(|()| file::sync_folder(target))
            .map_err(Error::io(target))
    }
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|d| char::from_digit(d.into(), 16))
        .collect()
}

fn network(url: &str, what: String) -> Error {
    Error::Network { url: url.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::super::server::{Answer, Server};
    use super::*;

    const BODY: &[u8] = b"the quick brown fox jumps over the lazy dog";
    const SHA256: &str = "05c6e08f1d9fdafa03147fcb8f82f124c76d2f70e3d989dc8aadb5e7d7450bec";

    fn client(token: Option<&str>) -> Client {
        let mut client = Client::new(token.map(str::to_owned), "accept the licence".to_owned());
        client.pause = Duration::from_millis(1);
        client
    }

    fn expected() -> Expected<'static> {
        Expected { name: "fox", size: Some(BODY.len() as u64), sha256: Some(SHA256) }
    }

    /// Downloads "/fox" into a fresh folder in which an earlier attempt has left `left`.
    fn download(server: &Server, left: &[u8]) -> (Result<()>, Option<Vec<u8>>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let (target, part) = (dir.path().join("blob"), dir.path().join("blob.incomplete"));
        if !left.is_empty() {
            std::fs::write(&part, left).unwrap();
        }
        let result = client(None).download(&server.url("/fox"), &target, &expected(), &mut |_| {});
        (result, std::fs::read(&target).ok(), part.exists())
    }

    fn whole() -> Answer {
        Answer::new(200, BODY)
    }

    fn rest(from: usize) -> Answer {
        let range = format!("bytes {from}-{}/{}", BODY.len() - 1, BODY.len());
        Answer::new(206, &BODY[from..]).header("content-range", &range)
    }

    #[test]
    fn a_file_comes_whole() {
        let server = Server::new(vec![whole()]);
        let (result, file, part) = download(&server, b"");
        result.unwrap();
        assert_eq!(file.unwrap(), BODY);
        assert!(!part);
        assert!(!server.requests()[0].to_lowercase().contains("range:"));
    }

    #[test]
    fn a_download_goes_on_where_it_stopped() {
        let server = Server::new(vec![rest(10)]);
        let (result, file, _) = download(&server, &BODY[..10]);
        result.unwrap();
        assert_eq!(file.unwrap(), BODY);
        assert!(server.requests()[0].to_lowercase().contains("range: bytes=10-"));
    }

    #[test]
    fn a_server_without_ranges_or_with_a_wrong_one_starts_again() {
        for answers in [vec![whole()], vec![rest(7), whole()], vec![Answer::new(416, b""), whole()]] {
            let (result, file, _) = download(&Server::new(answers), &BODY[..10]);
            result.unwrap();
            assert_eq!(file.unwrap(), BODY);
        }
        let (result, file, _) = download(&Server::new(vec![whole()]), &[BODY, BODY].concat());
        result.unwrap();
        assert_eq!(file.unwrap(), BODY);
    }

    #[test]
    fn broken_connections_are_continued() {
        let cut = |answer: Answer, keep| answer.cut(keep);
        let server = Server::new(vec![cut(whole(), 5), cut(rest(5), 7), rest(12)]);
        let (result, file, _) = download(&server, b"");
        result.unwrap();
        assert_eq!(file.unwrap(), BODY);
    }

    #[test]
    fn a_wrong_checksum_is_refused_and_deleted() {
        let mut wrong = BODY.to_vec();
        wrong[3] ^= 1;
        let (result, file, part) = download(&Server::new(vec![Answer::new(200, &wrong)]), b"");
        let message = result.unwrap_err().to_string();
        assert!(message.contains("fox") && message.contains(SHA256), "{message}");
        assert!(file.is_none() && !part);

        let (result, file, part) =
            download(&Server::new(vec![Answer::new(200, &[BODY, b"!"].concat())]), b"");
        assert!(result.unwrap_err().to_string().contains("44 bytes"));
        assert!(file.is_none() && !part);
    }

    #[test]
    fn busy_servers_are_asked_again_and_then_given_up() {
        let busy = |status| Answer::new(status, b"").header("retry-after", "0");
        let server = Server::new(vec![busy(429), busy(503), Answer::new(500, b""), whole()]);
        download(&server, b"").0.unwrap();
        assert_eq!(server.requests().len(), 4);

        let server = Server::new((0..TRIES).map(|_| busy(503)).collect());
        let (result, _, part) = download(&server, &BODY[..10]);
        assert!(result.unwrap_err().to_string().contains("503"));
        assert!(part, "the part downloaded before is kept");
    }

    #[test]
    fn refusals_say_what_to_do_and_are_not_repeated() {
        for (status, advice) in [(401, "licence"), (403, "licence"), (404, "revision"), (400, "400")] {
            let server = Server::new(vec![Answer::new(status, b"")]);
            let message = download(&server, b"").0.unwrap_err().to_string();
            assert!(message.contains(advice) && message.contains("/fox"), "{message}");
        }
    }

    #[test]
    fn the_token_stays_with_the_server_it_is_for() {
        let elsewhere = Server::new(vec![Answer::new(200, b"{\"a\": 1}")]);
        // Another name for the same machine is another server.
        let target = elsewhere.url("/x").replace("127.0.0.1", "localhost");
        let server = Server::new(vec![Answer::new(302, b"").header("location", &target)]);
        let value: serde_json::Value = client(Some("secret")).json(&server.url("/api")).unwrap();
        assert_eq!(value["a"], 1);
        assert!(server.requests()[0].contains("Bearer secret"));
        assert!(!elsewhere.requests()[0].contains("secret"));
    }

    #[test]
    fn answers_that_are_not_json_are_refused() {
        let server = Server::new(vec![Answer::new(200, b"<html>")]);
        let message = client(None).json::<serde_json::Value>(&server.url("/api")).unwrap_err().to_string();
        assert!(message.contains("/api") && message.contains("not understood"), "{message}");
    }

    #[test]
    fn two_processes_do_not_write_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("blob");
        let _first = Partial::open(&target).unwrap();
        let message = Partial::open(&target).err().unwrap().to_string();
        assert!(message.contains("another process"), "{message}");
    }
}
