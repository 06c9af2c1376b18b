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
        Device::Cuda(_) => return Err(crate::device::unported()),
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
        Device::Cuda(_) => return Err(crate::device::unported()),
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
        Device::Cuda(_) => return Err(crate::device::unported()),
        Device::Cpu => cpu::backward(x.f32_mut(), values.f32(), rows.u32(), 1.0),
    }
    Ok(())
}

/// On a GPU the range of the ids is the caller's promise: the model checks them before it uploads them.
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
