//! Everything that a pass computes, in three tables: [`Layer`], one a block; [`Ends`], around the blocks; [`Scratch`], the
//! gradients of a backward pass and the workspace of the head.
//!
//! A row of a table names a tensor, how many numbers it holds for each of the N rows of a pass, and of which type.
//! Allocation, shapes, the memory that a pass takes and the widths of the probes' sites derive from these rows.

use crate::device::Tensor;
use crate::error::Result;
use crate::model::place::Place;
use crate::model::probe::Site;
use crate::model::spec::Spec;
use crate::ops::embedding;

/// The sizes from which the widths follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dimensions {
    /// C.
    channels: usize,
    /// H and KV.
    heads: usize,
    kv_heads: usize,
    /// H·D and KV·D.
    query: usize,
    key: usize,
    /// F.
    mlp: usize,
    post_norms: bool,
    /// Columns of S of the adapters of qkv, o, gate_up and down: 0 where there are none.
    ranks: [usize; 4],
}

impl Dimensions {
    /// Without adapters.
    pub(super) fn of(spec: &Spec) -> Self {
        Self {
            channels: spec.channels,
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            query: spec.heads * spec.head_dim,
            key: spec.kv_heads * spec.head_dim,
            mlp: spec.mlp_width,
            post_norms: spec.post_norms,
            ranks: [0; 4],
        }
    }

    /// With adapters of these ranks.
    pub(super) fn with_ranks(self, ranks: [usize; 4]) -> Self {
        Self { ranks, ..self }
    }
}

/// A row of a table.
pub(super) struct TableRow<'a> {
    tensor: &'a mut Tensor,
    numbers: NumberType,
    /// Columns of an (N, width) tensor; none for one of N numbers.
    width: Option<usize>,
    /// Whether every pass gives it its shape; otherwise the op that writes it does, with at most N rows.
    every_pass: bool,
    /// Where a probe sees it.
    site: Option<Site>,
    /// Whether it is kept of every layer when a backward pass computes the others again.
    kept: bool,
}

/// The type of an activation's numbers.
#[derive(Clone, Copy, PartialEq)]
enum NumberType {
    /// The element type of the place.
    Real,
    /// f32 everywhere.
    Float,
    /// u32.
    Index,
}

/// (N, `width`) of the element type of the place; absent if the width is 0.
fn real(tensor: &mut Tensor, width: usize) -> TableRow<'_> {
    TableRow {
        tensor,
        numbers: NumberType::Real,
        width: Some(width),
        every_pass: true,
        site: None,
        kept: false,
    }
}

/// (N, `width`) of f32.
fn float(tensor: &mut Tensor, width: usize) -> TableRow<'_> {
    TableRow { numbers: NumberType::Float, ..real(tensor, width) }
}

/// The r of a norm: (N) of f32; absent if the norm is.
fn r(tensor: &mut Tensor, present: bool) -> TableRow<'_> {
    let row = float(tensor, 0);
    if present { TableRow { width: None, ..row } } else { row }
}

/// An adapter's S, (N, `rank`): the op knows its width.
fn s(tensor: &mut Tensor, rank: usize) -> TableRow<'_> {
    TableRow { every_pass: false, ..real(tensor, rank) }
}

/// (N) of u32.
fn index(tensor: &mut Tensor) -> TableRow<'_> {
    TableRow { numbers: NumberType::Index, width: None, every_pass: false, ..real(tensor, 0) }
}

impl TableRow<'_> {
    /// Seen by probes at `site`.
    fn at(self, site: Site) -> Self {
        Self { site: Some(site), ..self }
    }

    /// Kept of every layer.
    fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    /// Shaped by the op that writes it.
    fn on_use(self) -> Self {
        Self { every_pass: false, ..self }
    }

    fn bytes(&self, n: usize, real: usize) -> usize {
        let size = if self.numbers == NumberType::Real { real } else { 4 };
        n * self.width.unwrap_or(1) * size
    }
}

/// A struct of tensors with a row for each of them.
pub(super) trait Table: Default {
    /// The rows, in the order of the pass.
    fn rows(&mut self, sizes: &Dimensions) -> Vec<TableRow<'_>>;

    /// Empty tensors of the right types.
    fn new(sizes: &Dimensions, place: Place) -> Self {
        let mut table = Self::default();
        for row in table.rows(sizes) {
            *row.tensor = match row.numbers {
                NumberType::Real => place.real(),
                NumberType::Float => place.float(),
                NumberType::Index => place.index(),
            };
        }
        table
    }

    /// Gives the tensors the shapes of a pass over `n` rows.
    fn resize(&mut self, sizes: &Dimensions, n: usize) -> Result<()> {
        for row in self.rows(sizes).into_iter().filter(|row| row.every_pass) {
            match row.width {
                Some(0) => (),
                Some(width) => row.tensor.resize(&[n, width])?,
                None => row.tensor.resize(&[n])?,
            }
        }
        Ok(())
    }

    /// Bytes for a pass over `n` rows; `real` bytes for a number of the place's element type.
    fn bytes(sizes: &Dimensions, n: usize, real: usize) -> usize {
        Self::default().rows(sizes).iter().map(|row| row.bytes(n, real)).sum()
    }

    /// Of these, bytes that are kept of every layer when a backward pass computes the others again.
    fn kept_bytes(sizes: &Dimensions, n: usize, real: usize) -> usize {
        Self::default().rows(sizes).iter().filter(|row| row.kept).map(|row| row.bytes(n, real)).sum()
    }

    /// Bytes in use.
    #[cfg(test)]
    fn used_bytes(&mut self, sizes: &Dimensions) -> usize {
        self.rows(sizes).iter().map(|row| row.tensor.bytes()).sum()
    }
}

/// The activations of one block.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// The residual stream at the block's input.
    pub(super) x: Tensor,
    pub(super) attention_norm: Tensor,
    pub(super) attention_norm_r: Tensor,
    pub(super) qkv: Tensor,
    pub(super) qkv_s: Tensor,
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    pub(super) qk_r: Tensor,
    pub(super) attention: Tensor,
    pub(super) lse: Tensor,
    pub(super) o_s: Tensor,
    pub(super) attention_out: Tensor,
    /// With post-norms: what joins the stream, and the norm's r.
    pub(super) attention_delta: Tensor,
    pub(super) attention_delta_r: Tensor,
    pub(super) residual_mid: Tensor,
    pub(super) mlp_norm: Tensor,
    pub(super) mlp_norm_r: Tensor,
    pub(super) gate_up: Tensor,
    pub(super) gate_up_s: Tensor,
    pub(super) glu: Tensor,
    pub(super) down_s: Tensor,
    pub(super) mlp_out: Tensor,
    /// With post-norms, as above.
    pub(super) mlp_delta: Tensor,
    pub(super) mlp_delta_r: Tensor,
}

impl Table for Layer {
    fn rows(&mut self, sizes: &Dimensions) -> Vec<TableRow<'_>> {
        let &Dimensions { channels: c, heads, kv_heads, query, key, mlp: f, post_norms, ranks } = sizes;
        let post = if post_norms { c } else { 0 };
        vec![
            real(&mut self.x, c).at(Site::Embedding).kept(),
            real(&mut self.attention_norm, c).at(Site::AttentionNorm),
            r(&mut self.attention_norm_r, true),
            real(&mut self.qkv, query + 2 * key).at(Site::Qkv),
            s(&mut self.qkv_s, ranks[0]),
            real(&mut self.q, query).at(Site::Query),
            real(&mut self.k, key).at(Site::Key),
            real(&mut self.v, key),
            float(&mut self.qk_r, heads + kv_heads),
            real(&mut self.attention, query).at(Site::Attention),
            float(&mut self.lse, heads),
            s(&mut self.o_s, ranks[1]),
            real(&mut self.attention_out, c).at(Site::AttentionOut),
            real(&mut self.attention_delta, post).at(Site::AttentionDelta),
            r(&mut self.attention_delta_r, post_norms),
            real(&mut self.residual_mid, c).at(Site::ResidualMid),
            real(&mut self.mlp_norm, c).at(Site::MlpNorm),
            r(&mut self.mlp_norm_r, true),
            real(&mut self.gate_up, 2 * f).at(Site::GateUp),
            s(&mut self.gate_up_s, ranks[2]),
            real(&mut self.glu, f).at(Site::Glu),
            s(&mut self.down_s, ranks[3]),
            real(&mut self.mlp_out, c).at(Site::MlpOut),
            real(&mut self.mlp_delta, post).at(Site::MlpDelta),
            r(&mut self.mlp_delta_r, post_norms),
        ]
    }
}

impl Layer {
    /// What the block still has to add to `residual_mid`: the next norm does it.
    pub(super) fn delta(&self, post_norms: bool) -> &Tensor {
        if post_norms { &self.mlp_delta } else { &self.mlp_out }
    }
}

/// The activations after the blocks, and the gradient from which a backward pass starts.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// The residual stream after the last block.
    pub(super) residual: Tensor,
    /// The r of the final norm, and its output: the input of the head.
    pub(super) final_r: Tensor,
    pub(super) hidden: Tensor,
    /// ∂loss/∂hidden: written by the loss, read by the backward pass.
    pub(super) dhidden: Tensor,
}

impl Table for Ends {
    fn rows(&mut self, sizes: &Dimensions) -> Vec<TableRow<'_>> {
        let c = sizes.channels;
        vec![
            real(&mut self.residual, c).at(Site::Residual),
            r(&mut self.final_r, true),
            real(&mut self.hidden, c).at(Site::FinalNorm),
            real(&mut self.dhidden, c).on_use(),
        ]
    }
}

/// Gradients that live only inside a backward pass, and the head's workspace.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// ∂loss/∂(residual stream), walking down the layers.
    pub(super) stream: Tensor,
    /// Towards the input of a norm, or of the projection after it.
    pub(super) dx: Tensor,
    pub(super) dy: Tensor,
    pub(super) dgate_up: Tensor,
    pub(super) dglu: Tensor,
    pub(super) dattention: Tensor,
    pub(super) dq: Tensor,
    pub(super) dk: Tensor,
    pub(super) dv: Tensor,
    pub(super) dqkv: Tensor,
    pub(super) ds: Tensor,
    /// Of the n rows that carry a loss: their numbers, their hidden states and the gradient of these.
    pub(super) indices: Tensor,
    pub(super) rows: Tensor,
    pub(super) drows: Tensor,
    /// For each row of the pass, which of those n it is.
    pub(super) sources: Tensor,
    /// One chunk of logits, of as many rows as the op takes at a time.
    pub(super) logits: Tensor,
}

impl Table for Scratch {
    fn rows(&mut self, sizes: &Dimensions) -> Vec<TableRow<'_>> {
        let &Dimensions { channels: c, query, key, mlp: f, ranks, .. } = sizes;
        let widest = ranks.into_iter().max().unwrap_or(0);
        vec![
            real(&mut self.stream, c),
            real(&mut self.dx, c),
            real(&mut self.dy, c),
            real(&mut self.dgate_up, 2 * f),
            real(&mut self.dglu, f),
            real(&mut self.dattention, query),
            real(&mut self.dq, query),
            real(&mut self.dk, key),
            real(&mut self.dv, key),
            real(&mut self.dqkv, query + 2 * key),
            s(&mut self.ds, widest),
            index(&mut self.indices),
            real(&mut self.rows, c).on_use(),
            real(&mut self.drows, c).on_use(),
            index(&mut self.sources),
            // Counted apart: not a number of columns for every row of the pass.
            float(&mut self.logits, 0).on_use(),
        ]
    }
}

impl Scratch {
    /// `rows` (n, C) ← the rows of `x` that `indices` lists: a look-up, as the embedding's.
    pub(super) fn gather(&mut self, x: &Tensor, indices: &[u32]) -> Result<()> {
        let [n, c] = x.dims()?;
        assert!(indices.iter().all(|i| (*i as usize) < n), "rows of a pass of {n}");
        self.indices.set(&[indices.len()], indices)?;
        self.rows.resize(&[indices.len(), c])?;
        embedding::forward(&mut self.rows, &self.indices, x, 1.0)
    }

    /// `dx` (N, C) ← `drows` in the rows that `indices` lists, 0 elsewhere.
    pub(super) fn scatter(&mut self, dx: &mut Tensor, indices: &[u32]) -> Result<()> {
        let [n, _] = dx.dims()?;
        let mut sources = vec![embedding::NOWHERE; n];
        for (i, row) in indices.iter().enumerate() {
            sources[*row as usize] = i as u32;
        }
        self.sources.set(&[n], &sources)?;
        embedding::scatter(dx, &self.drows, &self.sources)
    }
}

impl Site {
    /// Columns of the activation at this site.
    pub fn width(self, spec: &Spec) -> usize {
        // Where a norm is absent, so is its output; a probe then sees what would have gone into it, which is as wide.
        let sizes = Dimensions { post_norms: true, ..Dimensions::of(spec) };
        let (mut layer, mut ends) = (Layer::default(), Ends::default());
        let rows = layer.rows(&sizes).into_iter().chain(ends.rows(&sizes));
        let width = rows.filter(|row| row.site == Some(self)).find_map(|row| row.width);
        width.expect("a row for every site")
    }
}
