//! Documents → token ids and the mask of tokens that carry loss. The mask comes from rendering prefixes of the
//! conversation through the model's own chat template: an assistant's turn is what the template adds after the
//! header that a generation prompt ends with, up to and including its end-of-turn token.

use std::ops::Range;

use super::dataset::{Content, Document, Origin};
use super::settings::{NoTarget, Settings, TooLong};
use crate::error::{Error, Result};
use crate::model::chat::{Message, Render};
use crate::model::tokenizer::Tokenizer;

/// One training example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Where it comes from.
    pub origin: Origin,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether token i is to be predicted, from the tokens before it; never the first.
    pub loss: Vec<bool>,
}

impl Example {
    /// Number of tokens that carry loss.
    pub fn targets(&self) -> usize {
        self.loss.iter().filter(|&&loss| loss).count()
    }

    /// Tokens that must pass through the model: those before the last target.
    pub fn inputs(&self) -> usize {
        self.loss.iter().rposition(|&loss| loss).unwrap_or(0)
    }
}

/// The examples of a data set, and what the limits did to it.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// The examples, in the order of the documents.
    pub examples: Vec<Example>,
    /// How many were cut to the longest length.
    pub truncated: usize,
    /// How many were left out for their length.
    pub too_long: usize,
    /// How many were left out for having no token that carries loss.
    pub no_target: usize,
}

/// Tokenises documents as `settings` say. `eos` are the model's end-of-turn tokens; the first of them also ends a
/// plain text.
///
/// # Errors
/// [`Error::Line`] naming the document that cannot be rendered, is too long, or has no token that carries loss;
/// [`Error::Setting`] if no example is left.
pub fn encode(
    documents: &[Document],
    tokenizer: &Tokenizer,
    eos: &[u32],
    settings: &Settings,
) -> Result<Examples> {
    let mut all = Examples::default();
    for document in documents {
        let (mut ids, mut loss) = match &document.content {
            Content::Text(text) => encode_text(text, tokenizer, eos)?,
            Content::Chat(messages) => encode_chat(messages, tokenizer, eos, settings.thinking)
                .map_err(|error| document.origin.error(error.to_string()))?,
        };
        if let Some(first) = loss.first_mut() {
            *first = false;
        }
        if !loss.contains(&true) {
            match settings.no_target {
                NoTarget::Drop => all.no_target += 1,
                NoTarget::Error => return Err(document.origin.error(no_target(&document.content))),
            }
            continue;
        }
        if ids.len() > settings.max_tokens {
            match settings.too_long {
                TooLong::Drop => {
                    all.too_long += 1;
                    continue;
                }
                TooLong::Error => {
                    let (found, limit) = (ids.len(), settings.max_tokens);
                    return Err(document.origin.error(format!(
                        "{found} tokens, more than max_tokens = {limit}: raise it, or set too_long to truncate or drop"
                    )));
                }
                TooLong::Truncate => {
                    all.truncated += 1;
                    ids.truncate(settings.max_tokens);
                    loss.truncate(settings.max_tokens);
                }
            }
        }
        // A prompt that alone fills max_tokens leaves nothing to learn: nothing is wrong with the data.
        if loss.contains(&true) {
            all.examples.push(Example { origin: document.origin.clone(), ids, loss });
        } else {
            all.truncated -= 1;
            all.too_long += 1;
        }
    }
    if all.examples.is_empty() {
        return Err(Error::Setting(
            "no training example is left: see max_tokens, too_long and no_target".into(),
        ));
    }
    Ok(all)
}

fn no_target(content: &Content) -> &'static str {
    match content {
        Content::Chat(_) => "no assistant token to learn: add an assistant message, or set no_target to drop",
        Content::Text(_) => "no token to learn: the text is empty; remove the line, or set no_target to drop",
    }
}

fn encode_text(text: &str, tokenizer: &Tokenizer, eos: &[u32]) -> Result<(Vec<u32>, Vec<bool>)> {
    let mut ids = tokenizer.encode(text, true)?;
    if !text.is_empty() && ids.last().is_none_or(|last| !eos.contains(last)) {
        ids.extend(eos.first());
    }
    let loss = vec![!text.is_empty(); ids.len()];
    Ok((ids, loss))
}

fn encode_chat(
    messages: &[Message],
    tokenizer: &Tokenizer,
    eos: &[u32],
    thinking: bool,
) -> Result<(Vec<u32>, Vec<bool>)> {
    let render = |messages: &[Message], generation_prompt: bool| {
        tokenizer.render(messages, Render { generation_prompt, enable_thinking: Some(thinking) })
    };
    let text = render(messages, false)?;
    // The template writes every special token itself, so none is added.
    let (ids, ranges): (Vec<u32>, Vec<Range<usize>>) = tokenizer.encode_ranges(&text)?.into_iter().unzip();
    let mut loss = vec![false; ids.len()];
    for turn in assistant_turns(messages, &text, render)? {
        // A token that straddles a boundary belongs to the turn in which it ends.
        let start = ranges.partition_point(|range| range.end <= turn.start);
        let end = ranges.partition_point(|range| range.end <= turn.end);
        // What the template writes after the end of the turn (a line break) is never sampled.
        let last = ids[start..end].iter().rposition(|id| eos.contains(id));
        loss[start..last.map_or(end, |last| start + last + 1)].fill(true);
    }
    Ok((ids, loss))
}

/// The bytes of `text`, the rendered conversation, that each assistant turn covers.
fn assistant_turns(
    messages: &[Message],
    text: &str,
    render: impl Fn(&[Message], bool) -> Result<String>,
) -> Result<Vec<Range<usize>>> {
    let mut turns = Vec::new();
    let mut searched = 0;
    for (k, message) in messages.iter().enumerate() {
        if message.role != "assistant" {
            continue;
        }
        // The turn as it would be rendered right after it was generated.
        let header = if k == 0 { String::new() } else { render(&messages[..k], true)? };
        let fresh = render(&messages[..=k], false)?;
        let turn = &fresh[common_prefix(header.as_bytes(), fresh.as_bytes())..];
        // Templates may write an earlier turn's header more briefly (Qwen 3 leaves out the empty think block),
        // so that the turn starts earlier than its header is long.
        let latest = common_prefix(header.as_bytes(), text.as_bytes());
        let start = (searched..=latest)
            .rev()
            .find(|&start| text.is_char_boundary(start) && text[start..].starts_with(turn))
            .ok_or_else(|| {
                Error::Setting(format!(
                    "the chat template renders message {} differently once others follow: split the conversation",
                    k + 1
                ))
            })?;
        turns.push(start..start + turn.len());
        searched = start + turn.len();
    }
    Ok(turns)
}

/// How many leading elements two slices share.
fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|&(role, content)| Message { role: role.into(), content: content.into() }).collect()
    }

    /// Qwen 3's way: an empty think block before the answer, except in turns before the last question.
    fn thinking_template(messages: &[Message], generation_prompt: bool) -> Result<String> {
        let last_question = messages.iter().rposition(|message| message.role == "user").unwrap_or(0);
        let mut text = String::new();
        for (i, Message { role, content }) in messages.iter().enumerate() {
            let think = if role == "assistant" && i > last_question { "<think>\n\n</think>\n\n" } else { "" };
            text += &format!("<s>{role}\n{think}{content}</s>\n");
        }
        if generation_prompt {
            text += "<s>assistant\n<think>\n\n</think>\n\n";
        }
        Ok(text)
    }

    fn turns(messages: &[Message]) -> Vec<String> {
        let text = thinking_template(messages, false).unwrap();
        let turns = assistant_turns(messages, &text, thinking_template).unwrap();
        turns.into_iter().map(|turn| text[turn].to_string()).collect()
    }

    #[test]
    fn a_turn_starts_after_the_generation_prompt() {
        assert_eq!(turns(&chat(&[("user", "hi"), ("assistant", "hello")])), ["hello</s>\n"]);
        assert!(turns(&chat(&[("user", "hi")])).is_empty());
    }

    #[test]
    fn earlier_turns_are_found_without_their_think_block() {
        let messages = chat(&[("user", "a"), ("assistant", "<b>"), ("user", "c"), ("assistant", "d")]);
        assert_eq!(turns(&messages), ["<b></s>\n", "d</s>\n"]);
        let same = chat(&[("user", "a"), ("assistant", "a"), ("user", "a"), ("assistant", "a")]);
        let text = thinking_template(&same, false).unwrap();
        let found = assistant_turns(&same, &text, thinking_template).unwrap();
        assert_eq!(found.len(), 2);
        assert!(text[..found[0].start].ends_with("<s>assistant\n"));
        assert!(text[..found[1].start].ends_with("</think>\n\n"));
    }

    #[test]
    fn a_template_that_rewrites_history_is_refused() {
        let rewriting = |messages: &[Message], _: bool| {
            Ok(messages.iter().map(|m| format!("{}{}", messages.len(), m.content)).collect::<String>())
        };
        let messages = chat(&[("user", "a"), ("assistant", "b"), ("user", "c")]);
        let text = rewriting(&messages, false).unwrap();
        assert!(assistant_turns(&messages, &text, rewriting).unwrap_err().to_string().contains("message 2"));
    }
}
