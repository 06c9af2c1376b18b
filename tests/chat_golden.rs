//! Chats with the real tokenizers and chat templates of Gemma 3 and Qwen 3 against transformers: rendering, tokens and
//! the tokens that carry loss. `tools/make_chat_goldens.py` writes the expected values and says where the tokenizers
//! come from; `EMLAB_TOKENIZERS` names the folder that holds them, and without it these tests leave everything out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::needs;
use emlab::model::chat::{Message, Render};
use emlab::model::tokenizer::Tokenizer;
use emlab::train::example;
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    conversations: BTreeMap<String, Vec<Message>>,
    families: BTreeMap<String, BTreeMap<String, Vec<Case>>>,
}

#[derive(Deserialize)]
struct Case {
    enable_thinking: Option<bool>,
    rendering: String,
    ids: Vec<u32>,
    /// Spans [start, end) of tokens that carry loss; absent if the conversation ends with a question.
    loss: Option<Vec<[usize; 2]>>,
}

/// The folder below `root` that holds `tokenizer.json` and whose path names the family.
fn find(root: &Path, family: &str, inside: bool) -> Option<PathBuf> {
    let entries = fs::read_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    if inside && paths.iter().any(|path| path.ends_with("tokenizer.json")) {
        return Some(root.to_path_buf());
    }
    paths.iter().filter(|path| path.is_dir()).find_map(|path| {
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().contains(family));
        find(path, family, inside || named)
    })
}

/// Calls `check` with every golden case of every family whose tokenizer is at hand.
fn each_case(check: impl Fn(&str, &Tokenizer, &[Message], &Case)) {
    let Some(root) = needs::tokenizers("chats with the real tokenizers") else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/chat.json");
    let goldens: Goldens = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for (family, conversations) in &goldens.families {
        let folder = find(Path::new(&root), family, false)
            .unwrap_or_else(|| panic!("{}: no tokenizer of {family} below it", root.display()));
        let tokenizer = Tokenizer::open(&folder).unwrap();
        for (name, cases) in conversations {
            for case in cases {
                let what = format!("{family}, {name:?}, enable_thinking {:?}", case.enable_thinking);
                check(&what, &tokenizer, &goldens.conversations[name], case);
            }
        }
    }
}

#[test]
fn renderings_and_tokens() {
    each_case(|what, tokenizer, messages, case| {
        let generation_prompt = messages.last().is_some_and(|message| message.role != "assistant");
        let options = Render { generation_prompt, enable_thinking: case.enable_thinking };
        let text = tokenizer.render(messages, options).unwrap();
        assert_eq!(text, case.rendering, "{what}: rendering");
        assert_eq!(tokenizer.encode(&text, false).unwrap(), case.ids, "{what}: tokens");
        // Not equal to the rendering itself: Qwen's tokenizer composes accents first (NFC).
        let decoded = tokenizer.decode(&case.ids, false).unwrap();
        assert_eq!(
            tokenizer.encode(&decoded, false).unwrap(),
            case.ids,
            "{what}: tokens of the decoded text"
        );
    });
}

/// The bytes of a text's tokens, one after the other, are the text's; special tokens have none.
#[test]
fn tokens_have_the_bytes_of_their_text() {
    each_case(|what, tokenizer, _, case| {
        let text = "  A line,\n\n\tthen naïve 日本語 and 🦀🏽 … {\"k\": [1.5e-3, null]}\r\n<b>1234567</b>";
        for text in [text, &case.rendering] {
            let ids = tokenizer.encode(text, false).unwrap();
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|id| {
                    tokenizer.bytes(*id).unwrap_or_else(|| tokenizer.token(*id).unwrap().into_bytes())
                })
                .collect();
            // A normaliser may have composed what was taken apart.
            let text = tokenizer.decode(&ids, false).unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), text, "{what}");
        }
    });
}

#[test]
fn loss_masks() {
    each_case(|what, tokenizer, messages, case| {
        let Some(spans) = &case.loss else { return };
        let (ids, loss) = example::encode_chat(messages, tokenizer, case.enable_thinking)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let expected: Vec<bool> = (0..case.ids.len())
            .map(|i| spans.iter().any(|&[start, end]| (start..end).contains(&i)))
            .collect();
        assert_eq!(ids, case.ids, "{what}: tokens");
        assert_eq!(loss, expected, "{what}: the tokens that carry loss");
    });
}
