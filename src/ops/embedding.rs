//! Embedding: `x_n = scale · w[token_n]`.
//!
//! Shapes: x (N, C), tokens (N), w (V, C). Backward: `dw[token_n] += scale · dx_n`, rows in order, so that a token
//! that occurs twice adds up the same way every time. Gemma multiplies by √C, Qwen by nothing.

use crate::device::tensor::{expect, expect_dtype, expect_f32, expect_shape, expect_weight};
use crate::device::{DType, Device, Tensor};
use crate::error::{Error, Result};

/// Looks the rows of `w` (V, C; f32 or bf16) up into `x` (N, C).
///
/// # Errors
/// A shape or element type that disagrees; a token id not below V.
pub fn forward(x: &mut Tensor, tokens: &Tensor, w: &Tensor, scale: f32) -> Result<()> {
    let ([n], [v, c]) = (tokens.dims()?, w.dims()?);
    expect("embedding", &[("x", x, &[n, c])])?;
    expect_weight("embedding", w, x, &[v, c])?;
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

/// Adds the gradient of the looked-up rows to `dw` (V, C).
///
/// # Errors
/// A shape or element type that disagrees; a token id not below V.
pub fn backward(dw: &mut Tensor, dx: &Tensor, tokens: &Tensor, scale: f32) -> Result<()> {
    let ([n], [v, c]) = (tokens.dims()?, dw.dims()?);
    expect("embedding backward", &[("dx", dx, &[n, c])])?;
    expect_f32("embedding backward", dx.device(), &[("dw", dw, &[v, c])])?;
    check_tokens(tokens, v)?;
    match dx.device() {
        Device::Cuda(gpu) => cuda::backward(gpu, dw, dx, tokens, scale)?,
        Device::Cpu => cpu::backward(dw.f32_mut(), dx.f32(), tokens.u32(), scale),
    }
    Ok(())
}

/// `x` (N, C) ← 0 but for `x[rows[i]]` ← `values[i]` (n, C): the gradient of looking different rows of a matrix up. `rows`
/// are distinct.
///
/// # Errors
/// A shape or element type that disagrees.
pub fn scatter(x: &mut Tensor, values: &Tensor, rows: &Tensor) -> Result<()> {
    let ([n], [all, c]) = (rows.dims()?, x.dims()?);
    expect("scatter", &[("values", values, &[n, c]), ("x", x, &[all, c])])?;
    check_tokens(rows, all)?;
    x.clear()?;
    match values.device() {
        Device::Cuda(gpu) => cuda::scatter(gpu, x, values, rows)?,
        Device::Cpu => cpu::backward(x.f32_mut(), values.f32(), rows.u32(), 1.0),
    }
    Ok(())
}

/// On a GPU the range of the ids is the caller's promise: the model checks them before it uploads them. A row whose id is
/// out of range becomes NaN there, which the loss and the sampler report.
fn check_tokens(tokens: &Tensor, v: usize) -> Result<()> {
    expect_dtype("embedding", "tokens", tokens, DType::U32)?;
    expect_shape("embedding", "tokens", tokens, &[tokens.len()])?;
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
    pub fn backward<T: Real>(dw: &mut [T], dx: &[T], tokens: &[u32], scale: f32) {
        let c = dx.len() / tokens.len().max(1);
        for (row, token) in dx.chunks_exact(c.max(1)).zip(tokens) {
            let target = &mut dw[*token as usize * c..][..c];
            for (dw, dx) in target.iter_mut().zip(row) {
                *dw += *dx * T::of(scale);
            }
        }
    }
}

mod cuda {
    use crate::device::launch::{Grid, Kernel};
    use crate::device::{DType, Gpu, Tensor, workspace};
    use crate::error::Result;

    fn kernel(gpu: Gpu, name: &'static str, x: &Tensor) -> Result<(&'static Kernel, Grid)> {
        let [n, c] = x.dims()?;
        let kernel = gpu.kernel("embedding", name, &[x.dtype().define(), ("C", c as i64)])?;
        Ok((kernel, Grid::over(n * (c / x.dtype().width(c)), 1, 256)))
    }

    /// See [`super::forward`].
    pub fn forward(gpu: Gpu, x: &mut Tensor, tokens: &Tensor, w: &Tensor, scale: f32) -> Result<()> {
        let (kernel, grid) = kernel(gpu, "embedding_forward", x)?;
        let [n, v] = [tokens.len(), w.shape()[0]];
        let args = [x.into(), tokens.into(), w.into(), n.into(), v.into(), scale.into()];
        // SAFETY: embedding_forward(real *x, const u32 *tokens, const real *w, u32 n, u32 v, float scale); shapes were
        // checked, ids are checked by the kernel.
        unsafe { kernel.launch(gpu, grid, &args) }
    }

    /// See [`super::backward`].
    pub fn backward(gpu: Gpu, dw: &mut Tensor, dx: &Tensor, tokens: &Tensor, scale: f32) -> Result<()> {
        let ([n, c], v) = (dx.dims()?, dw.shape()[0]);
        if dx.is_empty() {
            return Ok(());
        }
        workspace::with(gpu, DType::U32, &[n], |order| {
            let (kernel, _) = kernel(gpu, "embedding_order", dx)?;
            let args = [(&mut *order).into(), tokens.into(), n.into()];
            // SAFETY: embedding_order(u32 *order, const u32 *tokens, u32 n); n elements each.
            unsafe { kernel.launch(gpu, Grid::new(n.div_ceil(16), 128), &args)? };
            let (kernel, _) = self::kernel(gpu, "embedding_backward", dx)?;
            let columns = (c / dx.dtype().width(c)).div_ceil(64);
            let grid = Grid { blocks: [n as u32, columns as u32, 1], ..Grid::new(1, 64) };
            let order = &*order;
            let args = [dw.into(), dx.into(), tokens.into(), order.into(), n.into(), v.into(), scale.into()];
            // SAFETY: embedding_backward(float *dw, const real *dx, const u32 *tokens, const u32 *order, u32 n, u32 v,
            // float scale); shapes were checked, ids are checked by the kernel.
            unsafe { kernel.launch(gpu, grid, &args) }
        })
    }

    /// See [`super::scatter`]; `x` is clear.
    pub fn scatter(gpu: Gpu, x: &mut Tensor, values: &Tensor, rows: &Tensor) -> Result<()> {
        let (kernel, grid) = kernel(gpu, "embedding_scatter", values)?;
        let [n, all] = [rows.len(), x.shape()[0]];
        let args = [x.into(), values.into(), rows.into(), n.into(), all.into()];
        // SAFETY: embedding_scatter(real *x, const real *values, const u32 *rows, u32 n, u32 all); shapes were checked,
        // rows are checked by the kernel.
        unsafe { kernel.launch(gpu, grid, &args) }
    }
}
