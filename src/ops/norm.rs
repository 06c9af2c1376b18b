//! `RMSNorm`.

/// How the stored weight `w` becomes the gain of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gain {
    /// Gain 1 + w (Gemma).
    OnePlus,
    /// Gain w (Qwen).
    Plain,
}
