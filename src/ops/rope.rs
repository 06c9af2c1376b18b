//! Rotary position embedding.

/// Frequencies `base^(-2i/D)`, positions divided by `factor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// The base θ.
    pub base: f64,
    /// The linear scaling of positions; 1 for none.
    pub factor: f64,
}
