//! Training data: JSON Lines of chats in the `OpenAI` form, `{"messages": [{"role", "content"}, …]}`, or of plain
//! documents, `{"text": …}`. Other keys of a line are ignored.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::chat::Message;

/// Where a document comes from: a file and a line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub path: Arc<PathBuf>,
    /// The line, counted from 1.
    pub line: usize,
}

impl Origin {
    /// An error about this line.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::line(self.path.as_path(), self.line, what)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.path.display(), self.line)
    }
}

/// One line of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it comes from.
    pub origin: Origin,
    /// Its content.
    pub content: Content,
}

/// The content of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A conversation: loss on the assistant's turns.
    Chat(Vec<Message>),
    /// Plain text: loss on every token.
    Text(String),
}

#[derive(Deserialize)]
struct DataLine {
    messages: Option<Vec<Message>>,
    text: Option<String>,
}

/// Reads every document of a JSON Lines file; empty lines are skipped.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Line`] for a line that is not a document, [`Error::File`] if
/// the file holds none.
pub fn read(path: &Path) -> Result<Vec<Document>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let shared = Arc::new(path.to_path_buf());
    let mut documents = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let origin = Origin { path: Arc::clone(&shared), line: index + 1 };
        let content = parse(line).map_err(|what| origin.error(what))?;
        documents.push(Document { origin, content });
    }
    if documents.is_empty() {
        return Err(Error::file(path, "no training example in it: expected one JSON object a line"));
    }
    Ok(documents)
}

fn parse(line: &[u8]) -> std::result::Result<Content, String> {
    let line: DataLine = serde_json::from_slice(line).map_err(|error| {
        format!("not a training example: {error}; expected {{\"messages\": [{{\"role\", \"content\"}}]}} or {{\"text\"}}")
    })?;
    match (line.messages, line.text) {
        (Some(messages), None) if messages.is_empty() => Err("\"messages\" is empty".into()),
        (Some(messages), None) => Ok(Content::Chat(messages)),
        (None, Some(text)) => Ok(Content::Text(text)),
        (Some(_), Some(_)) => Err("both \"messages\" and \"text\": keep the one to be learnt".into()),
        (None, None) => Err("neither \"messages\" nor \"text\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Document>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn chats_texts_and_extras() {
        let documents = read_text(
            "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\",\"name\":\"x\"}],\"id\":1}\r\n\n{\"text\":\"a\"}",
        )
        .unwrap();
        assert_eq!(documents.len(), 2);
        assert!(matches!(&documents[0].content, Content::Chat(messages) if messages[0].content == "hi"));
        assert_eq!(documents[1].origin.line, 3);
        assert_eq!(documents[1].content, Content::Text("a".into()));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, what) in [
            ("{\"text\":\"a\"}\n{\"text\":", ":2: ", "EOF"),
            ("{\"prompt\":\"a\"}", ":1: ", "neither"),
            ("\n{\"messages\":[]}", ":2: ", "empty"),
            ("{\"messages\":[{\"role\":\"user\"}]}", ":1: ", "content"),
            ("{\"text\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"\"}]}", ":1: ", "both"),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(what), "{error}");
        }
        assert!(read_text("\n").unwrap_err().to_string().contains("no training example"));
    }
}
