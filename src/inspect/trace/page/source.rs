//! The source that computes what the page shows: the files themselves, and the lines at which their functions begin.

use std::collections::BTreeMap;

use serde_json::{Value, json};

const FILES: [(&str, &str); 11] = [
    ("src/model/transformer.rs", include_str!("../../../model/transformer.rs")),
    ("src/model/block.rs", include_str!("../../../model/block.rs")),
    ("src/ops/embedding.rs", include_str!("../../../ops/embedding.rs")),
    ("src/ops/norm.rs", include_str!("../../../ops/norm.rs")),
    ("src/ops/linear.rs", include_str!("../../../ops/linear.rs")),
    ("src/ops/rope.rs", include_str!("../../../ops/rope.rs")),
    ("src/ops/attention.rs", include_str!("../../../ops/attention.rs")),
    ("src/ops/glu.rs", include_str!("../../../ops/glu.rs")),
    ("src/inspect/trace/record.rs", include_str!("../record.rs")),
    ("src/inspect/trace/lens.rs", include_str!("../lens.rs")),
    ("src/inspect/trace/cost.rs", include_str!("../cost.rs")),
];

/// The page's name for a function, its file, and texts that lead to it, each searched for after the one before.
const PLACES: [(&str, &str, &[&str]); 14] = [
    ("run", "src/model/transformer.rs", &["fn run("]),
    ("head", "src/model/transformer.rs", &["pub fn lens("]),
    ("block", "src/model/block.rs", &["pub(super) fn forward("]),
    ("embedding", "src/ops/embedding.rs", &["pub mod cpu", "pub fn forward<"]),
    ("norm", "src/ops/norm.rs", &["pub mod cpu", "pub fn row<"]),
    ("add", "src/ops/norm.rs", &["pub mod cpu", "pub fn add_forward<"]),
    ("linear", "src/ops/linear.rs", &["pub mod cpu", "pub fn forward<"]),
    ("rope", "src/ops/rope.rs", &["pub mod cpu", "pub fn forward<"]),
    ("attention", "src/ops/attention.rs", &["pub mod cpu", "pub fn forward<"]),
    ("glu", "src/ops/glu.rs", &["pub mod cpu", "fn value_and_slope<"]),
    ("weights", "src/inspect/trace/record.rs", &["fn attend("]),
    ("neurons", "src/inspect/trace/record.rs", &["fn neurons("]),
    ("lens", "src/inspect/trace/lens.rs", &["pub(super) fn lens("]),
    ("work", "src/inspect/trace/cost.rs", &["fn work("]),
];

/// The line of `text`, counted from 1, on which the last of `texts` begins.
fn line(text: &str, texts: &[&str]) -> usize {
    let mut at = 0;
    for wanted in texts {
        at += text[at..].find(wanted).unwrap_or_else(|| panic!("{wanted:?} is not in the source"));
    }
    text[..at].matches('\n').count() + 1
}

/// `files`: path → text; `places`: name → \[path, line\].
pub(super) fn sources() -> Value {
    let text: BTreeMap<&str, &str> = FILES.into();
    let places: BTreeMap<&str, Value> = PLACES
        .into_iter()
        .map(|(name, path, texts)| (name, json!([path, line(text[path], texts)])))
        .collect();
    let files: serde_json::Map<String, Value> =
        FILES.into_iter().map(|(path, text)| (path.to_owned(), text.into())).collect();
    json!({ "files": files, "places": places })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_a_function() {
        let sources = sources();
        for (name, place) in sources["places"].as_object().unwrap() {
            let text = sources["files"][place[0].as_str().unwrap()].as_str().unwrap();
            let line = text.lines().nth(place[1].as_u64().unwrap() as usize - 1).unwrap();
            assert!(line.contains("fn "), "{name}: {line}");
        }
    }
}
