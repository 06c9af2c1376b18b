//! [`Tokenizer`]: text ↔ token ids, and conversations → text through the checkpoint's own chat template.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

use super::chat::Template;
pub use super::chat::{Message, Render};

/// The tokenizer of a model folder.
pub struct Tokenizer {
    dir: PathBuf,
    inner: tokenizers::Tokenizer,
    template: Option<Template>,
    bos: Option<u32>,
    /// Ids without a text of their own.
    special: BTreeSet<u32>,
    /// Whether tokens are spelt in GPT-2's byte alphabet; else a space is U+2581 and a single byte `<0xAB>`.
    byte_level: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and the chat template: `chat_template.jinja` if there is one,
    /// else `chat_template` of the config (a string, or a list of which "default" is taken).
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] naming the file that is missing or malformed.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let json = std::fs::read(&path).map_err(Error::io(&path))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|e| Error::file(&path, format!("not a tokenizer this build can read: {e}")))?;
        // A tokenizer saved by a training script may carry these; they would cut or pad texts silently.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::file(&path, e.to_string()))?;
        let path = dir.join("tokenizer_config.json");
        let config = if path.exists() { read_object(&path)? } else { Map::new() };
        let template = match template_source(dir, &config)? {
            Some((path, source)) => Some(
                Template::new(source, special_tokens(&config))
                    .map_err(|e| Error::file(path, format!("the chat template cannot be used: {e}")))?,
            ),
            None => None,
        };
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let byte_level = json!(inner.get_decoder()).to_string().contains("ByteLevel");
        let mut tokenizer = Self { dir: dir.to_path_buf(), inner, template, bos: None, special, byte_level };
        tokenizer.bos = tokenizer.encode("", true)?.first().copied();
        Ok(tokenizer)
    }

    /// The ids of a text. With `add_special`, those the model expects around a plain text too (Gemma: BOS); a
    /// rendered chat already holds its own.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer refuses the text (no unknown token, say).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|e| self.failed(&e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`encode`](Self::encode) without special tokens, each id with the bytes of `text` it stands for.
    /// The pieces of one character that is split into several ids all have that character's range.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_ranges(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(|e| self.failed(&e))?;
        let ranges = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(ranges).collect())
    }

    /// The text of some ids. Bytes that form no character become U+FFFD.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| self.failed(&e))
    }

    /// The id that `add_special` puts before a text, if this tokenizer does that.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The bytes of text that an id stands for, which need not be whole characters; none for a special token or an id that
    /// is not in the vocabulary.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        if self.special.contains(&id) {
            return None;
        }
        let token = self.inner.id_to_token(id)?;
        if self.byte_level {
            // An added token is spelt as it is.
            return token.chars().map(byte_of).collect::<Option<Vec<u8>>>().or(Some(token.into_bytes()));
        }
        let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => Some(vec![byte]),
            None => Some(token.replace('\u{2581}', " ").into_bytes()),
        }
    }

    /// The token of an id, in the vocabulary's own spelling.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token in the vocabulary's own spelling (`<end_of_turn>`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether [`render`](Self::render) can be used.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// A conversation as the text that the model was trained on; [`encode`](Self::encode) it without `add_special`.
    ///
    /// # Errors
    /// [`Error::File`] if the folder has no chat template, or [`Error::Setting`] in the template's own words if it
    /// refuses the conversation.
    pub fn render(&self, messages: &[Message], options: Render) -> Result<String> {
        let Some(template) = &self.template else {
            let what = "has no chat template: give a raw prompt, or use an instruction-tuned checkpoint";
            return Err(Error::file(&self.dir, what));
        };
        template
            .render(messages, options)
            .map_err(|e| Error::Setting(format!("{}: the chat template refuses: {e}", self.dir.display())))
    }

    fn failed(&self, error: &tokenizers::Error) -> Error {
        Error::file(self.dir.join("tokenizer.json"), error.to_string())
    }
}

/// The byte that GPT-2's byte-level vocabularies write as `c`: printable ones as themselves, the others from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => printable(code as u8).then_some(code as u8),
        code => (0..=255).filter(|byte| !printable(*byte)).nth((code - 0x100) as usize),
    }
}

/// The chat template and the file it comes from.
fn template_source(dir: &Path, config: &Map<String, Value>) -> Result<Option<(PathBuf, String)>> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        let source = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        return Ok(Some((path, source)));
    }
    let path = dir.join("tokenizer_config.json");
    let source = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => Some(source),
        Some(Value::Array(named)) => {
            named.iter().find(|t| t["name"] == "default").and_then(|t| match &t["template"] {
                Value::String(source) => Some(source),
                _ => None,
            })
        }
        Some(_) => None,
    };
    match source {
        Some(source) => Ok(Some((path, source.clone()))),
        None => Err(Error::file(path, "`chat_template` is neither a string nor a list with a \"default\"")),
    }
}

/// Every `…_token` of the config as text; transformers passes them to a template under these names.
fn special_tokens(config: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned);
    let tokens = config.iter().filter(|(key, _)| key.ends_with("_token"));
    tokens.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("not a JSON object: {e}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    /// Words, with BOS before a plain text; saved by a training script that cut at three tokens.
    fn folder(config: &Value) -> TempDir {
        let tokenizer = json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": null, "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": null,
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"<s>": 0, "?": 1, "naïve": 2, "b": 3}},
        });
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        dir
    }

    fn render(dir: &TempDir) -> Result<String> {
        Tokenizer::open(dir.path())?.render(&[Message::new("user", "hi")], Render::default())
    }

    #[test]
    fn texts_are_neither_cut_nor_marked_unless_asked() {
        let dir = folder(&json!({}));
        let tokenizer = Tokenizer::open(dir.path()).unwrap();
        assert_eq!(tokenizer.encode("naïve b b b b", false).unwrap(), [2, 3, 3, 3, 3]);
        assert_eq!(tokenizer.encode("b", true).unwrap(), [0, 3]);
        assert_eq!(
            (tokenizer.bos(), tokenizer.id("b"), tokenizer.token(3)),
            (Some(0), Some(3), Some("b".into()))
        );
        assert_eq!(tokenizer.encode_ranges("naïve b").unwrap(), [(2, 0..6), (3, 7..8)]);
        assert_eq!(tokenizer.decode(&[0, 3, 3], true).unwrap(), "b b");
        assert_eq!(tokenizer.len(), 4);
    }

    #[test]
    fn the_template_is_found_in_each_of_its_places() {
        let bos = json!({"content": "<s>", "special": true});
        let dir = folder(&json!({"bos_token": bos, "chat_template": "{{ bos_token }}string"}));
        assert_eq!(render(&dir).unwrap(), "<s>string");
        fs::write(dir.path().join("chat_template.jinja"), "{{ bos_token }}file\n").unwrap();
        assert_eq!(render(&dir).unwrap(), "<s>file");

        let named = json!([{"name": "tools", "template": "no"}, {"name": "default", "template": "list"}]);
        assert_eq!(render(&folder(&json!({"chat_template": named}))).unwrap(), "list");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refusal = |dir: &TempDir, part: &str| {
            let message = render(dir).unwrap_err().to_string();
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        };
        refusal(&folder(&json!({})), "no chat template");
        refusal(&folder(&json!({"chat_template": [{"name": "tools", "template": ""}]})), "default");
        refusal(&folder(&json!({"chat_template": "{% for %}"})), "tokenizer_config.json");
        refusal(&folder(&json!({"chat_template": "{{ raise_exception('no users') }}"})), "no users");
        let dir = folder(&json!([]));
        refusal(&dir, "tokenizer_config.json");
        fs::write(dir.path().join("tokenizer.json"), "{\"version\":").unwrap();
        refusal(&dir, "tokenizer.json");
        fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        refusal(&dir, "tokenizer.json");
    }
}
