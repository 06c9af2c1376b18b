//! [`Linear`]: one matrix for the projections that share an input, with an adapter segment for each.

use std::ops::Range;

use crate::device::philox::Key;
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::model::lora::{Lora, Target};
use crate::model::parameter::Parameter;
use crate::model::place::Place;
use crate::ops::linear::{self, Adapter, Dropout, Gradients};

/// Frozen or trained weight (O, I), rows grouped in one segment a projection, and perhaps an adapter.
#[derive(Debug)]
pub struct Linear {
    /// (O, I).
    pub weight: Parameter,
    /// The projections, in row order.
    pub segments: Vec<Segment>,
    adapter: Option<Stacked>,
}

/// The rows of one projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which projection.
    pub target: Target,
    /// Its output rows.
    pub rows: Range<usize>,
}

/// The adapters of all adapted segments, stacked as `ops::linear` takes them.
#[derive(Debug)]
struct Stacked {
    /// (G·R, I).
    a: Parameter,
    /// (Σ O_g, R).
    b: Parameter,
    layout: Layout,
}

/// Which projections stacked adapters belong to, and how they are applied.
#[derive(Debug)]
struct Layout {
    targets: Vec<Target>,
    /// Output rows of each.
    rows: Vec<Range<usize>>,
    rank: usize,
    scale: f32,
    dropout: f32,
}

/// One projection's adapter: A (R, I) and B (O, R), row-major.
#[derive(Clone, Debug)]
pub struct AdapterSegment {
    /// Which projection.
    pub target: Target,
    /// (R, I).
    pub a: Vec<f32>,
    /// (O, R).
    pub b: Vec<f32>,
    /// I.
    pub inputs: usize,
    /// O.
    pub outputs: usize,
}

impl Linear {
    /// From the stacked weight and the number of its rows that each projection owns.
    pub fn new(weight: Tensor, parts: &[(Target, usize)]) -> Self {
        let mut next = 0;
        let segments = parts.iter().map(|(target, rows)| {
            let rows = next..next + rows;
            next = rows.end;
            Segment { target: *target, rows }
        });
        Self { segments: segments.collect(), weight: Parameter::frozen(weight), adapter: None }
    }

    /// I.
    pub fn inputs(&self) -> usize {
        self.weight.value.shape()[1]
    }

    /// O.
    pub fn outputs(&self) -> usize {
        self.weight.value.shape()[0]
    }

    /// Columns of S, the adapters' inner width: G·R.
    pub(super) fn adapter_width(&self) -> usize {
        self.adapter.as_ref().map_or(0, |stack| stack.layout.targets.len() * stack.layout.rank)
    }

    /// Adds frozen adapters to the segments that `lora` targets: A Kaiming-uniform (a = √5, that is ±1/√I), B zero, as
    /// PEFT initialises them. A depends on (seed, `path`, target).
    pub(super) fn attach(&mut self, lora: &Lora, seed: u64, path: &str) {
        let wanted: Vec<&Segment> =
            self.segments.iter().filter(|s| lora.targets.contains(&s.target)).collect();
        if wanted.is_empty() {
            self.adapter = None;
            return;
        }
        let (inputs, rank) = (self.inputs(), lora.rank);
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut a = Vec::with_capacity(wanted.len() * rank * inputs);
        for segment in &wanted {
            let key = Key::new(seed, &["lora", path, segment.target.name()]);
            let row =
                |r: usize| (0..inputs).map(move |i| bound * (2.0 * key.uniform(r as u32, i as u32) - 1.0));
            a.extend((0..rank).flat_map(row));
        }
        let rows: Vec<Range<usize>> = wanted.iter().map(|s| s.rows.clone()).collect();
        let outputs = rows.iter().map(ExactSizeIterator::len).sum::<usize>();
        self.adapter = Some(Stacked {
            a: Parameter::frozen(Tensor::from_f32(&[wanted.len() * rank, inputs], a)),
            b: Parameter::frozen(Tensor::zeros(DType::F32, &[outputs, rank])),
            layout: Layout {
                targets: wanted.iter().map(|s| s.target).collect(),
                rows,
                rank,
                scale: lora.scale(),
                dropout: lora.dropout,
            },
        });
    }

    /// Moves the adapters from the host to their place, either to be trained or frozen.
    pub(super) fn settle(&mut self, place: Place, trained: bool) -> Result<()> {
        let Some(stack) = &mut self.adapter else { return Ok(()) };
        for parameter in [&mut stack.a, &mut stack.b] {
            let host = &parameter.value;
            *parameter = if trained {
                Parameter::trained(host, place)?
            } else if place.real == DType::Bf16 {
                Parameter::frozen(host.to_bf16().to(place.device)?)
            } else {
                Parameter::frozen(host.to(place.device)?)
            };
        }
        Ok(())
    }

    /// Removes the adapters.
    pub(super) fn detach(&mut self) {
        self.adapter = None;
    }

    /// Copies of the adapters, one a targeted projection.
    pub(super) fn adapters(&self) -> Result<Vec<AdapterSegment>> {
        let inputs = self.inputs();
        let Some(stack) = &self.adapter else { return Ok(Vec::new()) };
        let (a, b) = (stack.a.full().to(Device::Cpu)?.to_f32(), stack.b.full().to(Device::Cpu)?.to_f32());
        let segment = |(target, a_range, b_range): (Target, Range<usize>, Range<usize>)| AdapterSegment {
            target,
            outputs: b_range.len() / stack.layout.rank,
            a: a.f32()[a_range.start * inputs..a_range.end * inputs].to_vec(),
            b: b.f32()[b_range].to_vec(),
            inputs,
        };
        Ok(stack.layout.each().map(segment).collect())
    }

    /// Overwrites the adapter of one projection; false if it has none or the sizes differ.
    pub(super) fn set_adapter(&mut self, target: Target, a: &[f32], b: &[f32]) -> Result<bool> {
        let inputs = self.inputs();
        let Some(stack) = &mut self.adapter else { return Ok(false) };
        let Some((_, a_range, b_range)) = stack.layout.each().find(|(t, ..)| *t == target) else {
            return Ok(false);
        };
        let a_range = a_range.start * inputs..a_range.end * inputs;
        if (a_range.len(), b_range.len()) != (a.len(), b.len()) {
            return Ok(false);
        }
        stack.a.write(a_range.start, a)?;
        stack.b.write(b_range.start, b)?;
        Ok(true)
    }

    /// Bytes and elements of the weight and the adapters together.
    pub fn size(&self) -> [usize; 2] {
        let parameters = self.parameters("");
        [Tensor::bytes, Tensor::len].map(|size| parameters.iter().map(|(_, p)| size(&p.value)).sum())
    }

    /// The weight and the adapters, by name, each once and always in this order.
    pub(super) fn parameters(&self, path: &str) -> Vec<(String, &Parameter)> {
        let mut all = vec![(format!("{path}.weight"), &self.weight)];
        if let Some(stack) = &self.adapter {
            all.push((format!("{path}.lora_A"), &stack.a));
            all.push((format!("{path}.lora_B"), &stack.b));
        }
        all
    }

    /// [`parameters`](Self::parameters), to be changed.
    pub(super) fn parameters_mut(&mut self, path: &str) -> Vec<(String, &mut Parameter)> {
        let mut all = vec![(format!("{path}.weight"), &mut self.weight)];
        if let Some(stack) = &mut self.adapter {
            all.push((format!("{path}.lora_A"), &mut stack.a));
            all.push((format!("{path}.lora_B"), &mut stack.b));
        }
        all
    }

    /// Overwrites `y` (N, O) from `x` (N, I), keeping `s` for the backward; `noise` names this map's dropout in a training pass.
    ///
    /// # Errors
    /// As [`linear::forward`].
    pub fn forward(
        &self,
        y: &mut Tensor,
        s: &mut Tensor,
        x: &Tensor,
        noise: Option<(Key, u32)>,
    ) -> Result<()> {
        let adapter = self.adapter.as_ref().map(|stack| {
            let Stacked { a, b, layout } = stack;
            layout.adapter([&a.value, &b.value], noise)
        });
        linear::forward(y, s, x, &self.weight.value, adapter)
    }

    /// Gradient of [`forward`](Self::forward): overwrites `dx` (N, I) and the scratch `ds`, adds to the trained
    /// parameters.
    ///
    /// # Errors
    /// As [`linear::backward`].
    pub fn backward(
        &mut self,
        dx: &mut Tensor,
        ds: &mut Tensor,
        dy: &Tensor,
        saved: [&Tensor; 2],
        noise: Option<(Key, u32)>,
    ) -> Result<()> {
        let Parameter { value, gradient, .. } = &mut self.weight;
        let mut gradients = Gradients { w: gradient.as_mut(), adapter: None };
        let mut adapter = None;
        if let Some(Stacked { a, b, layout }) = &mut self.adapter {
            gradients.adapter = a.gradient.as_mut().zip(b.gradient.as_mut()).map(|(da, db)| [da, db]);
            adapter = Some(layout.adapter([&a.value, &b.value], noise));
        }
        linear::backward(dx, ds, gradients, dy, saved, value, adapter)
    }
}

impl Layout {
    /// For each adapted projection: its rows of A and its elements of B.
    fn each(&self) -> impl Iterator<Item = (Target, Range<usize>, Range<usize>)> {
        let (rank, mut next) = (self.rank, 0);
        self.targets.iter().zip(&self.rows).enumerate().map(move |(g, (target, rows))| {
            let b = next..next + rows.len() * rank;
            next = b.end;
            (*target, g * rank..(g + 1) * rank, b)
        })
    }

    /// The adapters of these A and B.
    fn adapter<'a>(&'a self, [a, b]: [&'a Tensor; 2], noise: Option<(Key, u32)>) -> Adapter<'a> {
        let dropout = noise.filter(|_| self.dropout > 0.0);
        Adapter {
            a,
            b,
            segments: &self.rows,
            scale: self.scale,
            dropout: dropout.map(|(key, map)| Dropout { p: self.dropout, key, map }),
        }
    }
}
