//! Weights into a [`Transformer`] and out of it: from a checkpoint or from random numbers, one tensor a name outside,
//! projections that share an input fused inside.

use half::bf16;

use crate::device::philox::Key;
use crate::device::{DType, Tensor};
use crate::error::Result;
use crate::model::adapter::Target;
use crate::model::block::{Block, BlockWeights};
use crate::model::linear::Linear;
use crate::model::parameter::Parameter;
use crate::model::saved::Place;
use crate::model::spec::Spec;
use crate::model::transformer::Transformer;
use crate::ops::norm::Gain;

/// Gives a tensor by its canonical Hugging Face name and shape.
type Source<'a> = dyn FnMut(&str, &[usize]) -> Result<Tensor> + 'a;

/// Builds the graph of `spec` from the tensors of `source`. Norm gains become f32; matrices stay as they are.
pub(super) fn assemble(spec: Spec, source: &mut Source) -> Result<Transformer> {
    let (v, c) = (spec.vocab, spec.channels);
    let embedding = Parameter::frozen(source("model.embed_tokens.weight", &[v, c])?);
    let blocks = (0..spec.layers)
        .map(|layer| Ok(Block::new(&spec, layer, block(&spec, layer, source)?)))
        .collect::<Result<_>>()?;
    let norm = Parameter::frozen(source("model.norm.weight", &[c])?.to_f32());
    let head = if spec.tied { None } else { Some(Parameter::frozen(source("lm_head.weight", &[v, c])?)) };
    Ok(Transformer { spec, place: Place::CPU, embedding, blocks, norm, head })
}

fn block(spec: &Spec, layer: usize, source: &mut Source) -> Result<BlockWeights> {
    let (c, d, f) = (spec.channels, spec.head_dim, spec.mlp_width);
    let mut get = |name: &str, shape: &[usize]| source(&format!("model.layers.{layer}.{name}.weight"), shape);
    let linear = |targets: &[(Target, usize)], inputs: usize, get: &mut Source| {
        let parts = targets.iter().map(|(target, rows)| get(target.path(), &[*rows, inputs]));
        Ok(Linear::new(stack(&parts.collect::<Result<Vec<_>>>()?), targets))
    };
    let (q, kv) = (spec.heads * d, spec.kv_heads * d);
    let linears = [
        linear(&[(Target::Q, q), (Target::K, kv), (Target::V, kv)], c, &mut get)?,
        linear(&[(Target::O, c)], q, &mut get)?,
        linear(&[(Target::Gate, f), (Target::Up, f)], c, &mut get)?,
        linear(&[(Target::Down, c)], f, &mut get)?,
    ];
    let mut gain = |name: &str, width: usize| Ok(get(name, &[width])?.to_f32());
    let [after_attention, before_mlp, after_mlp] =
        ["post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"];
    let mlp_norm = gain(if spec.post_norms { before_mlp } else { after_attention }, c)?;
    let post_norms =
        if spec.post_norms { Some([gain(after_attention, c)?, gain(after_mlp, c)?]) } else { None };
    let norms =
        [gain("input_layernorm", c)?, gain("self_attn.q_norm", d)?, gain("self_attn.k_norm", d)?, mlp_norm];
    Ok(BlockWeights { norms, linears, post_norms })
}

/// Rows under each other; bf16 if all parts are.
fn stack(parts: &[Tensor]) -> Tensor {
    let shape = [parts.iter().map(|p| p.shape()[0]).sum(), parts[0].shape()[1]];
    if parts.iter().all(|p| p.dtype() == DType::Bf16) {
        let rows: Vec<&[bf16]> = parts.iter().map(Tensor::bf16).collect();
        return Tensor::from_bf16(&shape, rows.concat());
    }
    let rows: Vec<Vec<f32>> = parts.iter().map(|p| p.to_f32().f32().to_vec()).collect();
    Tensor::from_f32(&shape, rows.concat())
}

/// Fresh weights: matrices N(0, 0.02²), norms neutral. Each tensor depends on (seed, name) alone.
pub(super) fn random(spec: &Spec, seed: u64, name: &str, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    if shape.len() == 1 {
        let neutral = if spec.gain == Gain::OnePlus { 0.0 } else { 1.0 };
        return Tensor::from_f32(shape, vec![neutral; n]);
    }
    let key = Key::new(seed, &["initial weights", name]);
    let normal = |i: usize| {
        // Box–Muller.
        let (u, v) = (key.uniform(0, i as u32), key.uniform(1, i as u32));
        0.02 * (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    };
    Tensor::from_f32(shape, (0..n).map(normal).collect())
}

impl Transformer {
    /// Every weight of the base under its canonical Hugging Face name, fused projections taken apart: what a
    /// checkpoint holds. Copies.
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![("model.embed_tokens.weight".to_owned(), self.embedding.value.clone())];
        for block in &self.blocks {
            let linears = block.linears();
            let norms = block.parameters().into_iter().filter(|(_, p)| p.value.shape().len() == 1);
            all.extend(norms.map(|(name, p)| (name, p.value.clone())));
            for linear in linears {
                for segment in &linear.segments {
                    let name = format!("model.layers.{}.{}.weight", block.layer, segment.target.path());
                    all.push((name, rows(&linear.weight.value, segment.rows.clone())));
                }
            }
        }
        all.push(("model.norm.weight".to_owned(), self.norm.value.clone()));
        all.extend(self.head.iter().map(|head| ("lm_head.weight".to_owned(), head.value.clone())));
        all
    }
}

/// A copy of some rows of a matrix.
fn rows(matrix: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let width = matrix.shape()[1];
    let (shape, elements) = ([range.len(), width], range.start * width..range.end * width);
    match matrix.dtype() {
        DType::Bf16 => Tensor::from_bf16(&shape, matrix.bf16()[elements].to_vec()),
        _ => Tensor::from_f32(&shape, matrix.f32()[elements].to_vec()),
    }
}
