//! Builds a [`Transformer`] from the tensors of a checkpoint or from random numbers, and gives its weights back. Outside, every
//! projection is a tensor of its own; inside, projections that share an input are fused.

use std::path::Path;

use half::bf16;

use crate::device::philox::Key;
use crate::device::upload::Upload;
use crate::device::{DType, Device, Tensor, memory, random};
use crate::error::Result;
use crate::model::block::{Block, BlockWeights};
use crate::model::checkpoint::Checkpoint;
use crate::model::linear::Linear;
use crate::model::lora::Target;
use crate::model::parameter::Parameter;
use crate::model::place::Place;
use crate::model::spec::Spec;
use crate::model::transformer::Transformer;
use crate::ops::norm::Gain;

/// A source of weights, by their canonical Hugging Face names.
trait Source {
    /// A tensor on the host, in the precision of the source.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor>;

    /// Writes a tensor into the elements of `to`, on a GPU, from `first` on.
    fn send(
        &self,
        upload: &mut Upload,
        to: &mut Tensor,
        first: usize,
        name: &str,
        shape: &[usize],
    ) -> Result<()>;
}

/// Moves tensors from a source to their place.
struct Loader<'a> {
    place: Place,
    source: &'a dyn Source,
    /// The upload, if the place is a GPU.
    upload: Option<Upload>,
}

impl Loader<'_> {
    /// A matrix (Σ rows, `inputs`), its parts under each other.
    fn matrix(&mut self, parts: &[(String, usize)], inputs: usize) -> Result<Tensor> {
        let Some(upload) = &mut self.upload else {
            let parts = parts.iter().map(|(name, rows)| self.source.tensor(name, &[*rows, inputs]));
            return Ok(stack(parts.collect::<Result<_>>()?));
        };
        let mut matrix = self.place.real();
        matrix.resize(&[parts.iter().map(|(_, rows)| rows).sum(), inputs])?;
        let mut first = 0;
        for (name, rows) in parts {
            self.source.send(upload, &mut matrix, first * inputs, name, &[*rows, inputs])?;
            first += rows;
        }
        Ok(matrix)
    }

    /// The gain of a norm, f32 everywhere.
    fn gain(&self, name: &str, width: usize) -> Result<Tensor> {
        self.source.tensor(name, &[width])?.to_f32().to(self.place.device)
    }
}

/// Builds the graph of `spec` from the tensors of `source`. Norm gains become f32; on the CPU matrices stay as they are.
/// `progress` is called with the number of layers read so far and of all layers.
fn assemble(
    spec: Spec,
    place: Place,
    source: &dyn Source,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Transformer> {
    memory::purpose("weights", || {
        let upload = match place.device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(Upload::new(gpu)?),
        };
        let mut loader = Loader { place, source, upload };
        let (v, c) = (spec.vocab, spec.channels);
        let embedding = Parameter::frozen(loader.matrix(&[("model.embed_tokens.weight".into(), v)], c)?);
        let blocks = (0..spec.layers)
            .map(|layer| {
                progress(layer, spec.layers);
                Ok(Block::new(&spec, layer, block(&spec, layer, &mut loader)?))
            })
            .collect::<Result<_>>()?;
        let norm = Parameter::frozen(loader.gain("model.norm.weight", c)?);
        let head = if spec.tied {
            None
        } else {
            Some(Parameter::frozen(loader.matrix(&[("lm_head.weight".into(), v)], c)?))
        };
        if let Some(upload) = loader.upload {
            upload.finish()?;
        }
        progress(spec.layers, spec.layers);
        Ok(Transformer { spec, place, embedding, blocks, norm, head, steering: None })
    })
}

fn block(spec: &Spec, layer: usize, loader: &mut Loader) -> Result<BlockWeights> {
    let (c, d, f) = (spec.channels, spec.head_dim, spec.mlp_width);
    let path = |name: &str| format!("model.layers.{layer}.{name}.weight");
    let mut linear = |targets: &[(Target, usize)], inputs: usize| {
        let parts: Vec<_> = targets.iter().map(|(target, rows)| (path(target.path()), *rows)).collect();
        Ok(Linear::new(loader.matrix(&parts, inputs)?, targets))
    };
    let (q, kv) = (spec.heads * d, spec.kv_heads * d);
    let linears = [
        linear(&[(Target::Q, q), (Target::K, kv), (Target::V, kv)], c)?,
        linear(&[(Target::O, c)], q)?,
        linear(&[(Target::Gate, f), (Target::Up, f)], c)?,
        linear(&[(Target::Down, c)], f)?,
    ];
    let gain = |name: &str, width: usize| loader.gain(&path(name), width);
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
fn stack(mut parts: Vec<Tensor>) -> Tensor {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let shape = [parts.iter().map(|p| p.shape()[0]).sum(), parts[0].shape()[1]];
    if parts.iter().all(|p| p.dtype() == DType::Bf16) {
        let rows: Vec<&[bf16]> = parts.iter().map(Tensor::bf16).collect();
        return Tensor::from_bf16(&shape, rows.concat());
    }
    let rows: Vec<Vec<f32>> = parts.iter().map(|p| p.to_f32().f32().to_vec()).collect();
    Tensor::from_f32(&shape, rows.concat())
}

impl Source for Checkpoint {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Self::tensor(self, name, shape)
    }

    fn send(
        &self,
        upload: &mut Upload,
        to: &mut Tensor,
        first: usize,
        name: &str,
        shape: &[usize],
    ) -> Result<()> {
        Self::send(self, upload, to, first, name, shape)
    }
}

/// Fresh weights: matrices N(0, 0.02²), norms neutral. Each tensor depends on (seed, name) alone.
struct Random<'a> {
    spec: &'a Spec,
    seed: u64,
}

const DEVIATION: f32 = 0.02;

impl Random<'_> {
    fn key(&self, name: &str) -> Key {
        Key::new(self.seed, &["initial weights", name])
    }
}

impl Source for Random<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let n = shape.iter().product();
        if shape.len() == 1 {
            let neutral = if self.spec.gain == Gain::OnePlus { 0.0 } else { 1.0 };
            return Ok(Tensor::from_f32(shape, vec![neutral; n]));
        }
        let key = self.key(name);
        let normal = |i: usize| {
            // Box–Muller.
            let (u, v) = (key.uniform(0, i as u32), key.uniform(1, i as u32));
            DEVIATION * (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
        };
        Ok(Tensor::from_f32(shape, (0..n).map(normal).collect()))
    }

    fn send(&self, _: &mut Upload, to: &mut Tensor, first: usize, name: &str, shape: &[usize]) -> Result<()> {
        random::normal(to, first, shape.iter().product(), self.key(name), DEVIATION)
    }
}

impl Transformer {
    /// Reads a Hugging Face folder. On the CPU matrices keep the precision they have on disk, and computation is f32.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`Checkpoint::tensor`]; [`Error::Memory`](crate::Error::Memory) if too little is free on a GPU.
    pub fn load(dir: &Path, place: Place) -> Result<Self> {
        Self::load_telling(dir, place, &mut |_, _| ())
    }

    /// As [`load`](Self::load), calling `progress` with the number of layers read so far and of all layers.
    ///
    /// # Errors
    /// As there.
    pub fn load_telling(dir: &Path, place: Place, progress: &mut dyn FnMut(usize, usize)) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir)?;
        assemble(checkpoint.spec().clone(), place, &checkpoint, progress)
    }

    /// Fresh weights, the same for the same seed.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) if too little is free on a GPU.
    pub fn random(spec: Spec, seed: u64, place: Place) -> Result<Self> {
        let sizes = spec.clone();
        assemble(spec, place, &Random { spec: &sizes, seed }, &mut |_, _| ())
    }

    /// Every weight of the base under its canonical Hugging Face name, fused projections taken apart: what a
    /// checkpoint holds. Copies, on the host.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the GPU has failed.
    pub fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        let host = |parameter: &Parameter| parameter.full().to(Device::Cpu);
        let mut all = vec![("model.embed_tokens.weight".to_owned(), host(&self.embedding)?)];
        for block in &self.blocks {
            let norms = block.parameters().into_iter().filter(|(_, p)| p.value.shape().len() == 1);
            for (name, parameter) in norms {
                all.push((name, host(parameter)?));
            }
            for linear in block.linears() {
                let weight = host(&linear.weight)?;
                for segment in &linear.segments {
                    let name = format!("model.layers.{}.{}.weight", block.layer, segment.target.path());
                    all.push((name, rows(&weight, segment.rows.clone())));
                }
            }
        }
        all.push(("model.norm.weight".to_owned(), host(&self.norm)?));
        if let Some(head) = &self.head {
            all.push(("lm_head.weight".to_owned(), host(head)?));
        }
        Ok(all)
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
