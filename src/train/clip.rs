//! The global norm of a gradient, and clipping by it, as `torch.nn.utils.clip_grad_norm_`.

use rayon::prelude::*;

/// The Euclidean norm of all the elements together. Summed in f64 over fixed pieces, so that it does not depend on
/// the number of threads.
pub fn norm<'a>(gradients: impl Iterator<Item = &'a [f32]>) -> f64 {
    const PIECE: usize = 1 << 16;
    let square = |piece: &[f32]| piece.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    let squares = gradients.map(|gradient| gradient.par_chunks(PIECE).map(square).collect::<Vec<_>>());
    squares.flatten().sum::<f64>().sqrt()
}

/// What gradients of norm `norm` are multiplied by so that it becomes at most `max`; 0 leaves them as they are.
pub fn factor(norm: f64, max: f64) -> f64 {
    // The 1e-6 is torch's.
    if max == 0.0 { 1.0 } else { (max / (norm + 1e-6)).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::{factor, norm};

    #[test]
    fn global_norm_and_factor() {
        let (a, b) = ([3.0_f32; 1], vec![0.0_f32; 100_000]);
        assert_eq!(norm([a.as_slice(), b.as_slice(), &[-4.0]].into_iter()), 5.0);
        assert_eq!(factor(5.0, 1.0), 1.0 / 5.000_001);
        assert_eq!((factor(0.5, 1.0), factor(5.0, 0.0)), (1.0, 1.0));
    }
}
