//! Texts from the command line and from files → tokens, and which of them belong to the answer.

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

/// The text to look at
#[derive(clap::Args)]
pub struct TextArgs {
    /// A user message, rendered with the chat template
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["raw", "file"])]
    prompt: Option<String>,
    /// An answer to it, to be included
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    answer: Option<String>,
    /// A raw text, without a chat template
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt")]
    raw: Option<String>,
    /// A file of raw text
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

    /// The text, and which of its tokens carry loss: those of the answer, or of a raw text all but the first, which
    /// nothing predicts.
    ///
    /// # Errors
    /// Those of [`tokens`](Self::tokens); if a prompt has no answer.
    pub fn text(&self, tokenizer: &Tokenizer) -> anyhow::Result<Text> {
        let ids = self.tokens(tokenizer)?;
        let first = match (&self.prompt, &self.answer) {
            (Some(_), None) => anyhow::bail!("a prompt alone has no loss: give an --answer to it"),
            (Some(prompt), Some(_)) => self.chat.ask(tokenizer, prompt)?.len(),
            // Nothing predicts the first token.
            (None, _) => 1,
        };
        let answer = (0..ids.len()).map(|i| i >= first).collect();
        Ok(Text { ids, answer })
    }
}

/// A question and its answer from the command line.
pub fn answered(prompt: &str, answer: &str) -> Document {
    Document {
        origin: Origin { path: Arc::new("--answer".into()), line: 1 },
        content: Content::Chat(vec![Message::new("user", prompt), Message::new("assistant", answer)]),
    }
}

/// At most `most` of `all`, chosen at random by `key`, in their original order.
pub fn drawn<T>(all: Vec<T>, most: usize, key: Key) -> Vec<T> {
    let mut kept = vec![false; all.len()];
    for i in key.permutation(all.len()).into_iter().take(most) {
        kept[i] = true;
    }
    all.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(one, _)| one).collect()
}

/// A chat in the model's template, up to the last token of its last answer. The assistant's turns, without the tokens that
/// end them, form the answer. Thinking is off, as in studies.
///
/// # Errors
/// Those of [`example::encode_chat`].
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

/// A document as tokens. In a chat, the assistant's turns are the answer; in a plain text, every token except BOS.
///
/// # Errors
/// Naming the document: those of [`chat`]; if it has no answer, or is longer than the model's context.
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
