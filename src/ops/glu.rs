//! The gated activation of an MLP.

/// The function applied to the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// The tanh approximation of the Gaussian error linear unit (Gemma).
    GeluTanh,
    /// x · sigmoid(x) (Qwen).
    Silu,
}
