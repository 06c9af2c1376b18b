//! Which kernels a model runs, with which load-time constants: as the ops choose them, on a card that need not be there.

use crate::device::gemm::{self, Shape};
use crate::device::gpu::Facts;
use crate::device::launch::Variant;
use crate::device::product::Store;
use crate::device::{DType, elementwise, random};
use crate::model::spec::Spec;
use crate::ops::rope::Heads;
use crate::ops::{
    adamw, attention, embedding, glu, linear, linear_cross_entropy, log_sum, mask, norm, rope, sample, steer,
};

/// Rows of the passes whose products are listed: decoding one answer and a hundred, training on two texts of 2,048 tokens.
pub const ROWS: [usize; 3] = [1, 100, 4096];

/// A kernel as a model runs it.
#[derive(Clone, Debug)]
pub struct Use {
    /// The kernel and its constants.
    pub variant: Variant,
    /// The products that it computes, where it does; else empty.
    pub products: Vec<String>,
}

/// Every kernel that a model of this `spec` can run on such a card, activations of type `real`; each once.
pub fn uses(spec: &Spec, facts: &Facts, real: DType) -> Vec<Use> {
    let (c, v) = (spec.channels, spec.vocab);
    let heads = Heads { query: spec.heads, kv: spec.kv_heads, dim: spec.head_dim };
    let mut plain = embedding::variants(real, c);
    plain.extend(norm::variants(facts, real, c, spec.gain));
    plain.extend(rope::variants(facts, real, heads, spec.gain));
    plain.extend(attention::variants(facts, real, heads));
    plain.extend(glu::variants(real, spec.mlp_width, spec.activation));
    plain.extend(linear::variants(real));
    plain.extend(linear_cross_entropy::variants(facts, real, v));
    plain.extend(log_sum::variants(facts, v));
    plain.extend(sample::variants(facts, v));
    plain.extend(mask::variants());
    plain.extend(steer::variants(real));
    plain.extend(adamw::variants());
    plain.extend(elementwise::variants(real));
    plain.extend(random::variants(real));
    let mut all: Vec<Use> = plain.into_iter().map(|variant| Use { variant, products: Vec::new() }).collect();
    for (name, shape) in products(spec, real) {
        for variant in gemm::variants(facts, shape) {
            match all.iter_mut().find(|used| used.variant == variant) {
                Some(used) => used.products.push(name.clone()),
                None => all.push(Use { variant, products: vec![name.clone()] }),
            }
        }
    }
    all
}

/// The products of a model by name, "qkv N=4096" for instance: those of its forward passes of [`ROWS`] rows, and of its
/// backward pass of as many as training takes, towards the input and towards the weight.
fn products(spec: &Spec, real: DType) -> Vec<(String, Shape)> {
    let (c, d, f) = (spec.channels, spec.head_dim, spec.mlp_width);
    let (q, kv) = (spec.heads * d, spec.kv_heads * d);
    let maps =
        [("qkv", q + 2 * kv, c), ("o", c, q), ("gate_up", 2 * f, c), ("down", c, f), ("head", spec.vocab, c)];
    let mut all = Vec::new();
    for (part, outputs, inputs) in maps {
        let head = part == "head";
        for rows in ROWS {
            // Training takes the head in chunks of rows.
            let n = if head { rows.min(linear_cross_entropy::GPU_CHUNK) } else { rows };
            let to = if head { DType::F32 } else { real };
            let forward = Shape {
                size: [n, outputs, inputs],
                transposed: [false, true],
                dtypes: [real, to],
                store: Store::Overwrite,
            };
            all.push((format!("{part} N={n}"), forward));
            if rows == ROWS[2] {
                let dx = Shape {
                    size: [n, inputs, outputs],
                    transposed: [false; 2],
                    dtypes: [real; 2],
                    ..forward
                };
                all.push((format!("{part} dx"), dx));
                let dw = Shape {
                    size: [outputs, inputs, n],
                    transposed: [true, false],
                    dtypes: [real, DType::F32],
                    store: Store::Accumulate,
                };
                all.push((format!("{part} dW"), dw));
            }
        }
    }
    all
}
