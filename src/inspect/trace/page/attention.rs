//! Attention weights for a page: few levels, the lower triangle alone, deflated, as text.
//!
//! ```text
//! level = round(√weight · (levels − 1))        weight ≈ (level / (levels − 1))²
//! ```
//! The square root gives finer steps to small weights, which are the most frequent.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::html::base64;
use crate::inspect::trace::tracing::Trace;

/// Bytes of text that all layers may take together: more make a page slow to send and to open.
pub(super) const BUDGET: usize = 14 << 20;
/// Numbers of levels to try; the first that fits is used.
const LEVELS: [u16; 2] = [256, 16];

/// The attention weights of all layers.
pub(super) struct PackedWeights {
    /// Levels that a weight can have.
    pub(super) levels: u16,
    /// Of each layer: base 64 of the zlib stream of a byte for each head, query and key up to the query, in this order.
    pub(super) layers: Vec<String>,
}

/// The weights of `trace`, in `budget` bytes; none if they do not fit.
pub(super) fn pack(trace: &Trace, budget: usize) -> Option<PackedWeights> {
    LEVELS.into_iter().find_map(|levels| {
        let mut left = budget;
        let mut layers = Vec::with_capacity(trace.sizes.layers);
        for layer in 0..trace.sizes.layers {
            let text = base64(&deflated(&triangles(trace, layer, levels)));
            left = left.checked_sub(text.len())?;
            layers.push(text);
        }
        Some(PackedWeights { levels, layers })
    })
}

fn triangles(trace: &Trace, layer: usize, levels: u16) -> Vec<u8> {
    let (n, heads) = (trace.tokens.len(), trace.sizes.heads);
    let top = f32::from(levels - 1);
    let rows = trace.attention[layer * heads * n * n..][..heads * n * n].chunks(n);
    rows.enumerate()
        .flat_map(|(row, weights)| &weights[..=(row % n)])
        .map(|weight| (weight.clamp(0.0, 1.0).sqrt() * top).round() as u8)
        .collect()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes any byte")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::inspect::trace::lens::Lens;
    use crate::inspect::trace::{Mlp, Norms, Sizes};

    fn trace(attention: Vec<f32>, n: usize) -> Trace {
        let sizes = Sizes {
            vocab: 2,
            channels: 1,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            mlp_width: 1,
            windows: vec![None],
        };
        Trace {
            sizes,
            tokens: vec![0; n],
            streams: Vec::new(),
            final_norm: Vec::new(),
            attention,
            norms: Norms::default(),
            mlp: Mlp::default(),
            lens: Lens::default(),
            ops: Vec::new(),
        }
    }

    #[test]
    fn small_weights_have_fine_steps() {
        let found = triangles(&trace(vec![1.0, 0.0, 0.25, 0.0001], 2), 0, 256);
        assert_eq!(found, [255, 128, 3]);
        let found = triangles(&trace(vec![1.0, 0.0, 0.25, 0.0001], 2), 0, 16);
        assert_eq!(found, [15, 8, 0]);
    }

    #[test]
    fn coarser_or_none_where_there_is_much() {
        let n = 200;
        let random = |i: usize| f32::from(((i * 2_654_435_761) >> 8) as u8) / 255.0;
        let trace = trace((0..n * n).map(random).collect(), n);
        let fine = pack(&trace, 1 << 20).unwrap();
        assert_eq!(fine.levels, 256);
        let coarse = pack(&trace, fine.layers[0].len() - 1).unwrap();
        assert_eq!(coarse.levels, 16);
        assert!(pack(&trace, 1000).is_none());
        let mut bytes = Vec::new();
        let zlib = deflated(&triangles(&trace, 0, 256));
        flate2::read::ZlibDecoder::new(&zlib[..]).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), n * (n + 1) / 2);
    }
}
