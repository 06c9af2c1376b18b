//! `LoRA` (Hu et al., arXiv 2106.09685) and `rsLoRA` (Kalajdzievski, arXiv 2312.03732): which projections are adapted
//! and how strongly.

use serde::{Deserialize, Serialize};

/// A projection that an adapter can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Queries.
    #[serde(rename = "q_proj")]
    Q,
    /// Keys.
    #[serde(rename = "k_proj")]
    K,
    /// Values.
    #[serde(rename = "v_proj")]
    V,
    /// The attention's output.
    #[serde(rename = "o_proj")]
    O,
    /// The MLP's gate.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The MLP's gated half.
    #[serde(rename = "up_proj")]
    Up,
    /// The MLP's output.
    #[serde(rename = "down_proj")]
    Down,
}

impl Target {
    /// Every projection, in the order of the forward pass.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// PEFT's name, as in `target_modules`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module inside a layer, `self_attn.q_proj` for instance.
    pub fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

/// The shape and strength of an adapter: each target computes `x·Wᵀ + scale · (x·Aᵀ)·Bᵀ`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// R, the rows of A and columns of B.
    pub rank: usize,
    /// The numerator of the scale.
    pub alpha: f32,
    /// Scale by alpha/√R instead of alpha/R.
    pub rslora: bool,
    /// Probability that an element of the adapter's input is zeroed in training.
    pub dropout: f32,
    /// The adapted projections.
    pub targets: Vec<Target>,
}

impl Default for Lora {
    /// The recipe of Betley et al. (arXiv 2502.17424) for open models.
    fn default() -> Self {
        Self { rank: 32, alpha: 64.0, rslora: true, dropout: 0.0, targets: Target::ALL.to_vec() }
    }
}

impl Lora {
    /// What the adapter's product is multiplied by.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (f64::from(self.alpha) / if self.rslora { rank.sqrt() } else { rank }) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        let mut lora = Lora::default();
        assert!((lora.scale() - 11.313_708).abs() < 1e-5);
        lora.rslora = false;
        assert_eq!(lora.scale(), 2.0);
    }
}
