//! Embedding: `x_n = scale · w[token_n]`.
//!
//! Shapes: x (N, C), tokens (N), w (V, C). Backward: `dw[token_n] += scale · dx_n`; the rows of one token are added in their
//! order, so the sum has the same bits every time. Gemma's scale is √C, Qwen's 1.

use crate::device::tensor::{expect, expect_dtype, expect_f32, expect_shape, expect_weight};
use crate::device::{DType, Device, Tensor};
use crate::error::{Error, Result};

pub use cuda::variants;

/// Looks up the rows of `w` (V, C; f32 or bf16) that `tokens` name and writes them to `x` (N, C).
///
/// # Errors
/// A shape or element type that disagrees; a token id not below V.
pub fn forward(x: &mut Tensor, tokens: &Tensor, w: &Tensor, scale: f32) -> Result<()> {
    let ([n], [v, c]) = (tokens.dims()?, w.dims()?);
    expect("embedding", &[("x", x, &[n, c])])?;
    expect_weight("embedding", w, x, &[v, c])?;
    check_indices("tokens", tokens, n)?;
    check_tokens(tokens, v)?;
    match x.device() {
        Device::Cuda(gpu) => cuda::forward(gpu, x, tokens, w, scale)?,
        Device::Cpu => match w.dtype() {
            DType::Bf16 => cpu::forward(x.f32_mut(), tokens.u32(), w.bf16(), scale),
            _ => cpu::forward(x.f32_mut(), tokens.u32(), w.f32(), scale),
        },
    }
    Ok(())
}

/// The rows (N) sorted by token, rows of one token in order, for [`backward`]. The host sorts while the GPU is busy.
///
/// # Errors
/// [`Error::Memory`] if too little is free; [`Error::Cuda`] if the GPU has failed.
pub fn order(tokens: &[u32], device: Device) -> Result<Tensor> {
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|row| tokens[*row as usize]);
    Tensor::from_u32(&[tokens.len()], order).to(device)
}

/// Adds the gradient of the looked-up rows to `dw` (V, C), given the tokens and their [`order`].
///
/// # Errors
/// A shape or element type that disagrees; a token id not below V.
pub fn backward(dw: &mut Tensor, dx: &Tensor, [tokens, order]: [&Tensor; 2], scale: f32) -> Result<()> {
    let ([n], [v, c]) = (tokens.dims()?, dw.dims()?);
    expect("embedding backward", &[("dx", dx, &[n, c])])?;
    expect_f32("embedding backward", dx.device(), &[("dw", dw, &[v, c])])?;
    check_indices("tokens", tokens, n)?;
    check_indices("order", order, n)?;
    check_tokens(tokens, v)?;
    match dx.device() {
        Device::Cuda(gpu) => cuda::backward(gpu, dw, dx, [tokens, order], scale)?,
        Device::Cpu => cpu::backward(dw.f32_mut(), dx.f32(), [tokens.u32(), order.u32()], scale),
    }
    Ok(())
}

/// The row of `values` that [`scatter`] finds nowhere.
pub const NOWHERE: u32 = u32::MAX;

/// `x` (N, C) ← the rows of `values` (n, C) that `sources` (N) lists, 0 at [`NOWHERE`]: the gradient of looking different
/// rows of a matrix up.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn scatter(x: &mut Tensor, values: &Tensor, sources: &Tensor) -> Result<()> {
    let ([count, _], [n, c]) = (values.dims()?, x.dims()?);
    expect("scatter", &[("values", values, &[count, c]), ("x", x, &[n, c])])?;
    check_indices("sources", sources, n)?;
    match values.device() {
        Device::Cuda(gpu) => cuda::scatter(gpu, x, values, sources)?,
        Device::Cpu => cpu::scatter(x.f32_mut(), values.f32(), sources.u32()),
    }
    Ok(())
}

fn check_indices(name: &'static str, indices: &Tensor, n: usize) -> Result<()> {
    expect_dtype("embedding", name, indices, DType::U32)?;
    expect_shape("embedding", name, indices, &[n])
}

/// On a GPU the caller must have checked the ids, as the model does before it uploads them. A row whose id is out of range
/// becomes NaN there, which the loss and the sampler report.
fn check_tokens(tokens: &Tensor, v: usize) -> Result<()> {
    if tokens.device() != Device::Cpu {
        return Ok(());
    }
    match tokens.u32().iter().find(|t| **t as usize >= v) {
        Some(token) => Err(Error::Run(format!(
            "token id {token} is outside the model's vocabulary of {v}: the tokenizer belongs to another model"
        ))),
        None => Ok(()),
    }
}

/// The definition.
pub mod cpu {
    use crate::ops::real::{Factor, Real};

    /// See [`super::forward`].
    pub fn forward<T: Real, W: Factor<T>>(x: &mut [T], tokens: &[u32], w: &[W], scale: f32) {
        let c = x.len() / tokens.len().max(1);
        for (row, token) in x.chunks_exact_mut(c.max(1)).zip(tokens) {
            let source = &w[*token as usize * c..][..c];
            for (x, w) in row.iter_mut().zip(source) {
                *x = w.value() * T::of(scale);
            }
        }
    }

    /// See [`super::backward`].
    pub fn backward<T: Real>(dw: &mut [T], dx: &[T], [tokens, order]: [&[u32]; 2], scale: f32) {
        let c = dx.len() / tokens.len().max(1);
        for row in order {
            let target = &mut dw[tokens[*row as usize] as usize * c..][..c];
            for (dw, dx) in target.iter_mut().zip(&dx[*row as usize * c..][..c]) {
                *dw += *dx * T::of(scale);
            }
        }
    }

    /// See [`super::scatter`].
    pub fn scatter(x: &mut [f32], values: &[f32], sources: &[u32]) {
        let c = x.len() / sources.len().max(1);
        for (row, source) in x.chunks_exact_mut(c.max(1)).zip(sources) {
            match values.get(*source as usize * c..) {
                Some(values) if values.len() >= c => row.copy_from_slice(&values[..c]),
                _ => row.fill(0.0),
            }
        }
    }
}

mod cuda {
    use crate::device::launch::Variant;
    use crate::device::{DType, Gpu, Tensor};
    use crate::error::Result;

    const THREADS: usize = 256;
    const BACKWARD_THREADS: usize = 64;

    fn variant(function: &'static str, dtype: DType, c: usize, threads: usize) -> Variant {
        Variant::new("embedding", function, &[dtype.define(), ("C", c as i64)], threads)
    }

    /// The kernels for rows of `c` elements of a type.
    pub fn variants(dtype: DType, c: usize) -> Vec<Variant> {
        let functions = [
            ("embedding_forward", THREADS),
            ("embedding_scatter", THREADS),
            ("embedding_backward", BACKWARD_THREADS),
        ];
        functions.map(|(function, threads)| variant(function, dtype, c, threads)).to_vec()
    }

    /// The kernel for all of `x`, and the vectors of `x`, each of which a thread takes.
    fn by_vector(function: &'static str, x: &Tensor) -> Result<(Variant, usize)> {
        let ([n, c], dtype) = (x.dims()?, x.dtype());
        Ok((variant(function, dtype, c, THREADS), n * (c / dtype.width(c))))
    }

    /// See [`super::forward`].
    pub fn forward(gpu: Gpu, x: &mut Tensor, tokens: &Tensor, w: &Tensor, scale: f32) -> Result<()> {
        let (variant, vectors) = by_vector("embedding_forward", x)?;
        let [n, v] = [tokens.len(), w.shape()[0]];
        let args = [x.into(), tokens.into(), w.into(), n.into(), v.into(), scale.into()];
        // SAFETY: embedding_forward(real *x, const u32 *tokens, const real *w, u32 n, u32 v, float scale); shapes were
        // checked, ids are checked by the kernel.
        unsafe { variant.launch_over(gpu, vectors, 1, &args) }
    }

    /// See [`super::backward`].
    pub fn backward(
        gpu: Gpu,
        dw: &mut Tensor,
        dx: &Tensor,
        [tokens, order]: [&Tensor; 2],
        scale: f32,
    ) -> Result<()> {
        let ([n, c], v) = (dx.dims()?, dw.shape()[0]);
        if dx.is_empty() {
            return Ok(());
        }
        let variant = variant("embedding_backward", dx.dtype(), c, BACKWARD_THREADS);
        let columns = (c / dx.dtype().width(c)).div_ceil(BACKWARD_THREADS);
        let args = [dw.into(), dx.into(), tokens.into(), order.into(), n.into(), v.into(), scale.into()];
        // SAFETY: embedding_backward(float *dw, const real *dx, const u32 *tokens, const u32 *order, u32 n, u32 v, float
        // scale); shapes were checked, ids are checked by the kernel; `order` holds rows.
        unsafe { variant.launch(gpu, [n, columns, 1], &args) }
    }

    /// See [`super::scatter`].
    pub fn scatter(gpu: Gpu, x: &mut Tensor, values: &Tensor, sources: &Tensor) -> Result<()> {
        let (variant, vectors) = by_vector("embedding_scatter", x)?;
        let [n, count] = [sources.len(), values.shape()[0]];
        let args = [x.into(), values.into(), sources.into(), n.into(), count.into()];
        // SAFETY: embedding_scatter(real *x, const real *values, const u32 *sources, u32 n, u32 count); shapes were
        // checked, sources are checked by the kernel.
        unsafe { variant.launch_over(gpu, vectors, 1, &args) }
    }
}
