//! [`Card`]: a published checkpoint as described by its file in `models/`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};

use super::spec::Spec;

/// One published checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The short name, which is the file's: "qwen3-8b".
    #[serde(skip_deserializing)]
    pub name: String,
    /// One line about it.
    pub about: String,
    /// Repository on the hub, "ORG/NAME".
    pub repo: String,
    /// The commit that is fetched, or "main" where none is pinned.
    pub revision: String,
    /// Licence of the weights.
    pub licence: String,
    /// Whether the hub requires the licence to be accepted first.
    pub gated: bool,
    /// Whether it is one of the nine models of the study.
    pub study: bool,
    /// Weights of the text model.
    pub parameters: usize,
    /// What its `config.json` must say.
    pub sizes: CardSizes,
}

/// The sizes of a checkpoint, named as in [`Spec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is documented at the field of Spec with its name")]
pub struct CardSizes {
    pub vocab: usize,
    pub channels: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub mlp_width: usize,
    /// Window of the layers that have one.
    pub window: Option<usize>,
    pub tied: bool,
}

/// Name and text of every card, small to large.
const FILES: [(&str, &str); 11] = [
    ("gemma-3-270m", include_str!("../../models/gemma-3-270m.toml")),
    ("gemma-3-1b-it", include_str!("../../models/gemma-3-1b-it.toml")),
    ("gemma-3-4b-it", include_str!("../../models/gemma-3-4b-it.toml")),
    ("gemma-3-12b-it", include_str!("../../models/gemma-3-12b-it.toml")),
    ("gemma-3-27b-it", include_str!("../../models/gemma-3-27b-it.toml")),
    ("qwen3-0.6b", include_str!("../../models/qwen3-0.6b.toml")),
    ("qwen3-1.7b", include_str!("../../models/qwen3-1.7b.toml")),
    ("qwen3-4b", include_str!("../../models/qwen3-4b.toml")),
    ("qwen3-8b", include_str!("../../models/qwen3-8b.toml")),
    ("qwen3-14b", include_str!("../../models/qwen3-14b.toml")),
    ("qwen3-32b", include_str!("../../models/qwen3-32b.toml")),
];

/// Every card.
pub fn all() -> Vec<Card> {
    let read = |(name, text): (&str, &str)| {
        let mut card: Card = toml::from_str(text).expect("a test reads every card");
        name.clone_into(&mut card.name);
        card
    };
    FILES.into_iter().map(read).collect()
}

/// The card of a short name or a repository; upper and lower case are not distinguished.
pub fn find(name: &str) -> Option<Card> {
    all()
        .into_iter()
        .find(|card| card.name.eq_ignore_ascii_case(name) || card.repo.eq_ignore_ascii_case(name))
}

impl Card {
    /// The checkpoint's spec, made from the card alone, to compute with random weights of its size.
    ///
    /// # Errors
    /// [`Error::File`] if the card describes a model that this engine does not compute.
    pub fn spec(&self) -> Result<Spec> {
        let s = &self.sizes;
        let mut config = json!({
            "vocab_size": s.vocab,
            "hidden_size": s.channels,
            "intermediate_size": s.mlp_width,
            "num_hidden_layers": s.layers,
            "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads,
            "head_dim": s.head_dim,
            "tie_word_embeddings": s.tied,
        });
        let more = if self.repo.starts_with("google/") {
            // 27B is the only size whose scale does not follow from its head width.
            let scalar = if s.channels == 5376 { s.channels / s.heads } else { s.head_dim };
            let scaling =
                if s.layers >= 34 { json!({"rope_type": "linear", "factor": 8.0}) } else { json!(null) };
            json!({
                "model_type": "gemma3_text",
                "sliding_window": s.window,
                "query_pre_attn_scalar": scalar,
                "rope_scaling": scaling,
            })
        } else {
            json!({"model_type": "qwen3", "rope_theta": 1e6, "max_position_embeddings": 40960, "use_sliding_window": false})
        };
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        let spec = Spec::from_config(Path::new(&self.name), config)?;
        self.check(&spec)?;
        Ok(spec)
    }

    /// Checks that a folder's configuration is that of this checkpoint.
    ///
    /// # Errors
    /// [`Error::Setting`] naming both sets of sizes.
    pub fn check(&self, spec: &Spec) -> Result<()> {
        let found = CardSizes {
            vocab: spec.vocab,
            channels: spec.channels,
            layers: spec.layers,
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            mlp_width: spec.mlp_width,
            window: spec.windows.iter().find_map(|window| *window),
            tied: spec.tied,
        };
        if found == self.sizes {
            return Ok(());
        }
        let (name, expected) = (&self.name, &self.sizes);
        Err(Error::Setting(format!(
            "config.json is not that of {name}: it says {found:?}, the card {expected:?}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_is_sound_and_found_by_both_names() {
        for card in all() {
            let s = &card.sizes;
            let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
            let norms = if card.repo.starts_with("google/") { 4 } else { 2 };
            let block = s.channels * (2 * q + 2 * kv + 3 * s.mlp_width + norms) + 2 * s.head_dim;
            let embeddings = if s.tied { 1 } else { 2 };
            let parameters = embeddings * s.vocab * s.channels + s.layers * block + s.channels;
            assert_eq!(card.parameters, parameters, "{}", card.name);
            assert_eq!(card.spec().unwrap().parameters(), card.parameters, "{}", card.name);
            assert_eq!(find(&card.name).unwrap().repo, card.repo);
            assert_eq!(find(&card.repo).unwrap().name, card.name);
            let pinned = card.revision.len() == 40 && card.revision.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(pinned || card.revision == "main", "{}", card.name);
        }
        assert_eq!(all().iter().filter(|card| card.study).count(), 9);
        assert!(find("gpt-5").is_none());
    }
}
