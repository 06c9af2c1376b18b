//! Clipping by the global norm of the gradient, as `torch.nn.utils.clip_grad_norm_`.

/// What gradients of global norm `norm` are multiplied by so that it becomes at most `max`; 0 leaves them as they are.
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
