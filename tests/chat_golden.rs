//! Chats with the real tokenizers and chat templates of Gemma 3 and Qwen 3 against transformers: rendering, tokens and
//! the tokens that carry loss. `tools/make_chat_goldens.py` writes the expected values and says where the tokenizers
//! come from; `EMLAB_TOKENIZERS` names the folder that holds them, and without it these tests leave everything out.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emlab::model::chat::{Message, Render};
use emlab::model::tokenizer::Tokenizer;
use emlab::train::dataset::{Content, Document, Origin};
use emlab::train::{Settings, example};
use serde::Deserialize;

/// Conversations whose earlier answers Qwen 3's template rewrites once another question follows (it takes the thoughts
/// out), so that what the model would have written there is not what it would be trained on: refused by name.
const REFUSED: [(&str, bool); 4] =
    [("several turns, answered", true), ("numbers", true), ("thought", true), ("thought", false)];

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
    let Some(root) = std::env::var_os("EMLAB_TOKENIZERS") else {
        eprintln!("left out: chats with the real tokenizers (EMLAB_TOKENIZERS is not set)");
        return;
    };
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

#[test]
fn loss_masks() {
    each_case(|what, tokenizer, messages, case| {
        let Some(spans) = &case.loss else { return };
        let gemma = what.starts_with("gemma3");
        // Gemma's template knows no `enable_thinking`; for Qwen 3 a training run always decides it.
        let Some(thinking) = case.enable_thinking.or(gemma.then_some(false)) else { return };
        let end = tokenizer.id(if gemma { "<end_of_turn>" } else { "<|im_end|>" }).unwrap();
        let document = Document {
            origin: Origin { path: Arc::new("chat.json".into()), line: 1 },
            content: Content::Chat(messages.to_vec()),
        };
        let settings = Settings { thinking, ..Settings::default() };
        let found = example::encode(&[document], tokenizer, &[end], &settings);
        if !gemma
            && REFUSED.iter().any(|&(name, with)| what.contains(&format!("{name:?}")) && with == thinking)
        {
            let error = found.unwrap_err().to_string();
            assert!(error.contains("split the conversation"), "{what}: {error}");
            return;
        }
        let example = found.unwrap_or_else(|error| panic!("{what}: {error}")).examples.remove(0);
        let loss: Vec<bool> = (0..case.ids.len())
            .map(|i| spans.iter().any(|&[start, end]| (start..end).contains(&i)))
            .collect();
        assert_eq!(example.ids, case.ids, "{what}: tokens");
        assert_eq!(example.loss, loss, "{what}: the tokens that carry loss");
    });
}
