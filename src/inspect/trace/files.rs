//! A trace on disk: `trace.safetensors` (everything, exact) and `trace.json` (all but streams and attention; numbers to 4
//! digits).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::record::{Mlp, Norms};
use super::tracing::Trace;
use crate::device::{Tensor, file};
use crate::error::Result;
use crate::inspect::trace::lens::Lens;
use crate::model::checkpoint::write_safetensors;
use crate::model::tokenizer::Tokenizer;

impl Trace {
    /// Writes `trace.safetensors`, `trace.json` and `index.html` into `dir`. `about` describes the trace's origin; the page
    /// shows its `model`, `adapter`, `family`, `device` and `precision`.
    ///
    /// # Errors
    /// As [`json`](Self::json); [`Error::Io`](crate::Error::Io) if a file cannot be written.
    pub fn write(&self, dir: &Path, tokenizer: &Tokenizer, about: &Value) -> Result<()> {
        let json = self.json(tokenizer, about)?;
        self.write_tensors(dir)?;
        file::replace(&dir.join("trace.json"), |out| out.write_all(json.to_string().as_bytes()))?;
        self.write_page(dir, &json)
    }

    /// Writes `trace.safetensors` into `dir`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be written.
    fn write_tensors(&self, dir: &Path) -> Result<()> {
        file::make_folder(dir)?;
        let n = self.tokens.len();
        let (depths, layers, heads, c) =
            (self.sizes.layers + 1, self.sizes.layers, self.sizes.heads, self.sizes.channels);
        let top = self.lens.top;
        let float = |shape: &[usize], x: &[f32]| Tensor::from_f32(shape, x.to_vec());
        let index = |shape: &[usize], x: &[u32]| Tensor::from_u32(shape, x.to_vec());
        let Norms { stream, attention_delta, residual_mid, mlp_delta } = &self.norms;
        let Mlp { open, rms, largest, values } = &self.mlp;
        let neurons = largest.len() / (layers * n);
        let tensors = [
            ("tokens", index(&[n], &self.tokens)),
            ("loss", float(&[n - 1], self.loss())),
            ("streams", float(&[depths, n, c], &self.streams)),
            ("final_norm", float(&[n, c], &self.final_norm)),
            ("attention", float(&[layers, heads, n, n], &self.attention)),
            ("norms.stream", float(&[depths, n], stream)),
            ("norms.attention_delta", float(&[layers, n], attention_delta)),
            ("norms.residual_mid", float(&[layers, n], residual_mid)),
            ("norms.mlp_delta", float(&[layers, n], mlp_delta)),
            ("mlp.open", float(&[layers, n], open)),
            ("mlp.rms", float(&[layers, n], rms)),
            ("mlp.largest", index(&[layers, n, neurons], largest)),
            ("mlp.values", float(&[layers, n, neurons], values)),
            ("lens.tokens", index(&[depths, n, top], &self.lens.tokens)),
            ("lens.probabilities", float(&[depths, n, top], &self.lens.probabilities)),
            ("lens.entropy", float(&[depths, n], &self.lens.entropy)),
            ("lens.next_nll", float(&[depths, n - 1], &self.lens.next_nll)),
            ("lens.next_rank", index(&[depths, n - 1], &self.lens.next_rank)),
        ];
        let tensors: Vec<(String, &Tensor)> =
            tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor)).collect();
        write_safetensors(&dir.join("trace.safetensors"), &tensors, &[("format", "emlab trace")])
    }

    /// Everything but streams and attention, with the tokens' texts. Arrays are flat, row-major, of the shapes that `shapes`
    /// gives; numbers have 4 digits. `about` describes the trace's origin.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the tokenizer does not know a token.
    pub fn json(&self, tokenizer: &Tokenizer, about: &Value) -> Result<Value> {
        let n = self.tokens.len();
        let (depths, layers) = (self.sizes.layers + 1, self.sizes.layers);
        let Lens { top, tokens, probabilities, entropy, next_nll, next_rank } = &self.lens;
        let Norms { stream, attention_delta, residual_mid, mlp_delta } = &self.norms;
        let Mlp { open, rms, largest, values } = &self.mlp;
        let neurons = largest.len() / (layers * n);
        let mut texts = BTreeMap::new();
        for id in self.tokens.iter().chain(tokens) {
            if !texts.contains_key(id) {
                texts.insert(*id, tokenizer.decode(&[*id], false)?);
            }
        }
        Ok(json!({
            "about": about,
            "sizes": self.sizes,
            "shapes": {
                "tokens": [n], "loss": [n - 1],
                "norms": { "stream": [depths, n], "attention_delta": [layers, n], "residual_mid": [layers, n], "mlp_delta": [layers, n] },
                "mlp": { "open": [layers, n], "rms": [layers, n], "largest": [layers, n, neurons], "values": [layers, n, neurons] },
                "lens": {
                    "tokens": [depths, n, top], "probabilities": [depths, n, top], "entropy": [depths, n],
                    "next_nll": [depths, n - 1], "next_rank": [depths, n - 1],
                },
            },
            "tokens": self.tokens,
            "texts": texts,
            "loss": short(self.loss()),
            "norms": {
                "stream": short(stream), "attention_delta": short(attention_delta),
                "residual_mid": short(residual_mid), "mlp_delta": short(mlp_delta),
            },
            "mlp": { "open": short(open), "rms": short(rms), "largest": largest, "values": short(values) },
            "lens": {
                "tokens": tokens, "probabilities": short(probabilities), "entropy": short(entropy),
                "next_nll": short(next_nll), "next_rank": next_rank,
            },
            "ops": self.ops,
        }))
    }
}

/// Numbers to 4 digits; null where they are not finite.
fn short(x: &[f32]) -> Vec<Option<f64>> {
    let round = |x: &f32| {
        if *x == 0.0 {
            return Some(0.0);
        }
        let factor = 10f64.powi(3 - f64::from(x.abs()).log10().floor() as i32);
        x.is_finite().then(|| (f64::from(*x) * factor).round() / factor)
    };
    x.iter().map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits() {
        let found = short(&[0.0, 1.234_56, -98_765.4, 0.000_123_456, f32::NAN, 1.0]);
        assert_eq!(json!(found).to_string(), "[0.0,1.235,-98770.0,0.0001235,null,1.0]");
    }
}
