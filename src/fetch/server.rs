//! A server for tests, which gives prepared responses to one request after another.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// One response.
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// How many bytes of the body are sent before the connection closes.
    sent: usize,
}

impl Answer {
    pub(super) fn new(status: u16, body: &[u8]) -> Self {
        Self { status, headers: Vec::new(), body: body.to_vec(), sent: body.len() }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Announces the whole body and closes the connection after `sent` bytes.
    pub(super) fn cut(mut self, sent: usize) -> Self {
        self.sent = sent;
        self
    }
}

/// Listens on a port of its own until its responses are used up.
pub(super) struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn new(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                log.lock().unwrap().push(String::from_utf8(request).unwrap());
                let length = answer.body.len();
                let mut head = format!(
                    "HTTP/1.1 {} -\r\ncontent-length: {length}\r\nconnection: close\r\n",
                    answer.status
                );
                for (name, value) in &answer.headers {
                    head.push_str(&[name, ": ", value, "\r\n"].concat());
                }
                stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
                stream.write_all(&answer.body[..answer.sent]).unwrap();
            }
        });
        Self { address, requests }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// The requests so far: request line and headers.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}
