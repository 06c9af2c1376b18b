//! Clipping by the global norm of the gradient, as `torch.nn.utils.clip_grad_norm_`.

/// The factor that reduces gradients of global norm `norm` to a norm of at most `max`; a `max` of 0 means no clipping.
pub fn factor(norm: f64, max: f64) -> f64 {
    // The 1e-6 is torch's.
    if max == 0.0 { 1.0 } else { (max / (norm + 1e-6)).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::factor;

    #[test]
    fn equals_torch() {
        assert_eq!(factor(5.0, 1.0), 1.0 / 5.000_001);
        assert_eq!((factor(0.5, 1.0), factor(5.0, 0.0)), (1.0, 1.0));
    }
}
