//! Chats → tokens, and which of them are the answer's.

use emlab::inspect::features::Text;
use emlab::model::chat::Message;
use emlab::train::dataset::Content;
use emlab::train::example;

use crate::commands::engine::Engine;

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
/// As [`chat`].
pub fn document(engine: &Engine, content: &Content) -> emlab::Result<Text> {
    match content {
        Content::Chat(messages) => chat(engine, messages),
        Content::Text(text) => {
            let ids = engine.tokenizer.encode(text, true)?;
            let bos = engine.tokenizer.bos();
            let answer = ids.iter().enumerate().map(|(i, id)| i > 0 || Some(*id) != bos).collect();
            Ok(Text { ids, answer })
        }
    }
}
