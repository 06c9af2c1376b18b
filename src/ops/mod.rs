//! L1: one file an op: its maths, its forward, its backward. Knows no model's configuration.
//!
//! | op | computes | kept for the backward |
//! |---|---|---|
//! | [`embedding`] | rows of the embedding matrix | tokens |
//! | [`norm`] | `RMSNorm`, alone or fused with the residual addition before it | x, r |
//! | [`linear`] | matrix product with fused `LoRA` segments | x, S |
//! | [`rope`] | qkv → q, k, v: split, QK-norm, rotation | qkv, r |
//! | [`attention`] | causal, windowed, grouped-query, packed or cached | q, k, v, out, lse |
//! | [`glu`] | activation(gate) · up | `gate_up` |
//! | [`linear_cross_entropy`] | head, loss and their gradient, chunk by chunk | nothing |
//! | [`adamw`] | one optimiser step | m, v |
//! | [`sample`] | the next token | nothing |
//! | [`mask`] | logits of the tokens that are allowed next | nothing |
//! | [`log_sum`] | logits of listed tokens, and the log-sum of all others | nothing |
//! | [`steer`] | rows moved along a direction | nothing |
//!
//! The gradient contract, without exceptions: **`dx` overwrites, `dw` accumulates, adding into the residual stream
//! is an explicit op** ([`norm::add_backward`]). Arguments: outputs, inputs, weights, scalars; backward: `dx`, `dw`,
//! `dy`, saved, weights, scalars. Each public op checks shapes once, then matches on the device; `cpu` holds the
//! definition, generic over [`real::Real`] so that dual numbers can differentiate it (`tests/gradcheck.rs`).
//! Recomputation belongs to the training loop, never to an op.

pub mod adamw;
pub mod attention;
pub mod embedding;
pub mod glu;
pub mod linear;
pub mod linear_cross_entropy;
pub mod log_sum;
pub mod mask;
pub mod norm;
pub mod real;
pub mod rope;
pub mod sample;
mod slices;
pub mod steer;
