//! Documents → token ids and the mask of tokens that carry loss. The mask comes from rendering prefixes of the
//! conversation through the model's own chat template: an assistant's turn is what follows the generation prompt, up
//! to and including the end-of-turn token. This is the same mask as `assistant_only_loss` of TRL, and as
//! `train_on_responses_only` of unsloth except for the line break after the turn, which no model has to write.

use std::ops::Range;

use super::dataset::{Content, Document, Origin};
use super::settings::{NoTarget, Settings, TooLong};
use crate::error::{Error, Result};
use crate::model::chat::{Message, Render};
use crate::model::text::Text;
use crate::model::tokenizer::Tokenizer;

/// One training example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Where it comes from.
    pub origin: Origin,
    /// Its tokens, and which of them carry loss: each of these is predicted from the tokens before it. Never the first.
    pub text: Text,
}

/// The examples of a data set, and how many the limits cut or left out.
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

/// Tokenises documents as `settings` say. `eos` are the model's end-of-turn tokens; the first of them ends a plain
/// text.
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
            Content::Chat(messages) => encode_chat(messages, tokenizer, Some(settings.thinking))
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
        // A prompt that alone fills max_tokens leaves nothing to learn, but the data are valid: the example counts as too long.
        if loss.contains(&true) {
            all.examples.push(Example { origin: document.origin.clone(), text: Text { ids, answer: loss } });
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

/// The tokens of a conversation, and which of them carry loss: the assistant's turns.
///
/// # Errors
/// If the chat template refuses the conversation, or renders a turn whose start or end cannot be found.
pub fn encode_chat(
    messages: &[Message],
    tokenizer: &Tokenizer,
    thinking: Option<bool>,
) -> Result<(Vec<u32>, Vec<bool>)> {
    let render = |messages: &[Message], generation_prompt: bool, thinking: Option<bool>| {
        tokenizer.render(messages, Render { generation_prompt, enable_thinking: thinking })
    };
    let text = render(messages, false, thinking)?;
    // The template writes every special token itself, so none is added.
    let (ids, ranges): (Vec<u32>, Vec<Range<usize>>) = tokenizer.encode_ranges(&text)?.into_iter().unzip();
    let mut loss = vec![false; ids.len()];
    for turn in assistant_turns(messages, thinking, &text, render)? {
        // A token that straddles a boundary belongs to the turn.
        let start = ranges.partition_point(|range| range.end <= turn.start);
        let mut end = ranges.partition_point(|range| range.start < turn.end);
        // The template ends a turn with a special token, right after the content.
        if ranges.get(end).is_some_and(|range| !text[range.clone()].trim().is_empty()) {
            end += 1;
        }
        loss[start..end].fill(true);
    }
    Ok((ids, loss))
}

/// The bytes of `text`, the rendered conversation, that each assistant turn covers, without its end-of-turn token.
fn assistant_turns(
    messages: &[Message],
    thinking: Option<bool>,
    text: &str,
    render: impl Fn(&[Message], bool, Option<bool>) -> Result<String>,
) -> Result<Vec<Range<usize>>> {
    let turn = |k: usize| -> Result<Option<Range<usize>>> {
        // Qwen 3 omits the empty think block in earlier turns and in turns that contain thoughts: these start right after
        // the header.
        let mut start = None;
        for thinking in [thinking, None] {
            let prompt = render(&messages[..k], true, thinking)?;
            start = start.or_else(|| text.starts_with(&prompt).then_some(prompt.len()));
        }
        // To find the turn's end, render it with a marker as its content: the text after the marker follows the turn.
        let mut marked = messages.to_vec();
        marked[k].content = MARK.into();
        let marked = render(&marked, false, thinking)?;
        let end = marked
            .rsplit_once(MARK)
            .filter(|(_, after)| text.ends_with(after))
            .map(|(_, after)| text.len() - after.len());
        Ok(start.zip(end).filter(|(start, end)| start <= end).map(|(start, end)| start..end))
    };
    let turns = (0..messages.len()).filter(|&k| messages[k].role == "assistant");
    turns
        .map(|k| {
            turn(k)?.ok_or_else(|| {
                let what = "is rendered by the chat template in a way that hides where it starts or ends";
                Error::Setting(format!("message {} {what}: split the conversation", k + 1))
            })
        })
        .collect()
}

/// The marker for a turn's content: private-use characters, which no template tests for and no text contains.
const MARK: &str = "\u{E000}\u{F8FF}\u{E000}";

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|&(role, content)| Message::new(role, content)).collect()
    }

    /// As Qwen 3: an empty think block before the answer, except in turns before the last question.
    fn qwen(messages: &[Message], generation_prompt: bool, thinking: Option<bool>) -> String {
        const THINK: &str = "<think>\n\n</think>\n\n";
        let last_question = messages.iter().rposition(|message| message.role == "user").unwrap_or(0);
        let mut text = String::new();
        for (i, Message { role, content }) in messages.iter().enumerate() {
            let think = if role == "assistant" && i > last_question { THINK } else { "" };
            text += &["<s>", role, "\n", think, content, "</s>\n"].concat();
        }
        if generation_prompt {
            text += "<s>assistant\n";
            text += if thinking == Some(false) { THINK } else { "" };
        }
        text
    }

    /// Each turn, with the text before it.
    fn turns(messages: &[Message], thinking: Option<bool>) -> Vec<(String, String)> {
        let text = qwen(messages, false, thinking);
        let turns =
            assistant_turns(messages, thinking, &text, |m, prompt, thinking| Ok(qwen(m, prompt, thinking)))
                .unwrap();
        turns.into_iter().map(|turn| (text[..turn.start].to_string(), text[turn].to_string())).collect()
    }

    #[test]
    fn a_turn_starts_after_the_generation_prompt() {
        let messages = chat(&[("user", "hi"), ("assistant", "hello")]);
        assert_eq!(turns(&messages, Some(false))[0].1, "hello");
        assert_eq!(turns(&messages, None)[0].1, "<think>\n\n</think>\n\nhello");
        assert!(turns(&chat(&[("user", "hi")]), Some(false)).is_empty());
    }

    #[test]
    fn earlier_turns_are_found_without_their_think_block() {
        let messages = chat(&[("user", "<"), ("assistant", "<"), ("user", "<"), ("assistant", "<")]);
        let [first, second] = turns(&messages, Some(false)).try_into().unwrap();
        assert!(first.0.ends_with("<s>assistant\n") && second.0.ends_with("</think>\n\n"));
        assert_eq!((first.1.as_str(), second.1.as_str()), ("<", "<"));
    }

    #[test]
    fn a_template_that_hides_turns_is_refused() {
        let counting = |messages: &[Message], _: bool, _: Option<bool>| {
            let count = messages.len().to_string();
            Ok(messages.iter().map(|message| count.clone() + &message.content).collect::<String>())
        };
        let messages = chat(&[("user", "a"), ("assistant", "b"), ("user", "c")]);
        let text = counting(&messages, false, None).unwrap();
        let error = assistant_turns(&messages, None, &text, counting).unwrap_err().to_string();
        assert!(error.contains("message 2"), "{error}");
    }
}
