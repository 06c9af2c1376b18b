//! Texts of the command line and of files → tokens, and which of them are the answer's.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use emlab::device::philox::Key;
use emlab::model::chat::Message;
use emlab::model::text::Text;
use emlab::model::tokenizer::Tokenizer;
use emlab::train::dataset::{Content, Document, Origin};
use emlab::train::example;

use crate::commands::engine::{ChatArgs, Engine};

/// The text that is looked at
#[derive(clap::Args)]
pub struct TextArgs {
    /// What a user says; the chat template is put around it
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["raw", "file"])]
    prompt: Option<String>,
    /// What the model has answered to it, if that is to be seen, too
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    answer: Option<String>,
    /// A text as it is
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt")]
    raw: Option<String>,
    /// A file of text as it is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "raw"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    chat: ChatArgs,
}

impl TextArgs {
    /// The tokens of the text.
    ///
    /// # Errors
    /// If the file cannot be read, or the model has no chat template or refuses the messages.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> anyhow::Result<Vec<u32>> {
        if let Some(prompt) = &self.prompt {
            let mut tokens = self.chat.ask(tokenizer, prompt)?;
            if let Some(answer) = &self.answer {
                tokens.extend(tokenizer.encode(answer, false)?);
            }
            return Ok(tokens);
        }
        let text = match (&self.raw, &self.file) {
            (Some(raw), _) => raw.clone(),
            (None, Some(path)) => {
                std::fs::read_to_string(path).with_context(|| path.display().to_string())?
            }
            (None, None) => String::new(),
        };
        Ok(tokenizer.encode(&text, true)?)
    }

    /// The text, and which of its tokens carry loss: the answer's, or all of a text as it is but the first, which
    /// nothing predicts.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens); for a prompt without an answer.
    pub fn text(&self, tokenizer: &Tokenizer) -> anyhow::Result<Text> {
        let ids = self.tokens(tokenizer)?;
        let first = match (&self.prompt, &self.answer) {
            (Some(_), None) => anyhow::bail!("a prompt alone has no loss: give an --answer to it"),
            (Some(prompt), Some(_)) => self.chat.ask(tokenizer, prompt)?.len(),
            // The first token follows none.
            (None, _) => 1,
        };
        let answer = (0..ids.len()).map(|i| i >= first).collect();
        Ok(Text { ids, answer })
    }
}

/// A question and its answer, as the command line gives them.
pub fn answered(prompt: &str, answer: &str) -> Document {
    Document {
        origin: Origin { path: Arc::new("--answer".into()), line: 1 },
        content: Content::Chat(vec![Message::new("user", prompt), Message::new("assistant", answer)]),
    }
}

/// At most `most` of `all`, drawn as `key` decides, in their order.
pub fn drawn<T>(all: Vec<T>, most: usize, key: Key) -> Vec<T> {
    let mut kept = vec![false; all.len()];
    for i in key.permutation(all.len()).into_iter().take(most) {
        kept[i] = true;
    }
    all.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(one, _)| one).collect()
}

/// A chat in the model's template, up to the last token of its last answer: the answer are the assistant's turns without the
/// tokens that end them. Thinking is off, as in studies.
///
/// # Errors
/// As [`example::encode_chat`].
pub fn chat(engine: &Engine, messages: &[Message]) -> emlab::Result<Text> {
    let (mut ids, mut answer) = example::encode_chat(messages, &engine.tokenizer, Some(false))?;
    for (id, answer) in ids.iter().zip(&mut answer) {
        *answer &= !engine.model.spec.eos.contains(id);
    }
    let end = answer.iter().rposition(|answer| *answer).map_or(0, |last| last + 1);
    ids.truncate(end);
    answer.truncate(end);
    Ok(Text { ids, answer })
}

/// A document: of a chat, the answers count; of a plain text, all but the token that the tokenizer puts before it.
///
/// # Errors
/// Naming the document: as [`chat`]; if it has no answer, or is longer than the model's context.
pub fn document(engine: &Engine, Document { origin, content }: &Document) -> emlab::Result<Text> {
    let text = match content {
        Content::Chat(messages) => chat(engine, messages).map_err(|error| origin.error(error.to_string()))?,
        Content::Text(text) => {
            let ids = engine.tokenizer.encode(text, true)?;
            let bos = engine.tokenizer.bos();
            let answer = ids.iter().enumerate().map(|(i, id)| i > 0 || Some(*id) != bos).collect();
            Text { ids, answer }
        }
    };
    let (found, context) = (text.ids.len(), engine.model.spec.context);
    if !text.answer.contains(&true) {
        return Err(origin.error("no answer in it: expected an assistant's message"));
    }
    if found > context {
        return Err(origin.error(format!("{found} tokens; the model reads {context}")));
    }
    Ok(text)
}
