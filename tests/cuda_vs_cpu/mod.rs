//! Every kernel against the CPU's definition of its op, on random inputs and poisoned outputs, at odd shapes and at those
//! of real models.
//!
//! A result is held against two limits. As a whole, in the Frobenius norm: in f32 it must agree to 1e-5; in bf16 both
//! sides get inputs that bf16 holds exactly, and the kernel's error may be twice what rounding the exact result to bf16
//! costs, and a little for intermediate roundings. Element by element: each stays within an error budget that is computed
//! beside the reference (`budget.rs`), so that a single wrong element fails. Without a GPU nothing is compared, and the
//! tests say so; `planted.rs` tests the comparison itself, anywhere.

mod adamw;
mod attention;
mod budget;
mod embedding;
mod glu;
mod honest;
mod linear;
mod linear_cross_entropy;
mod mask;
mod norm;
mod planted;
mod rope;
mod sample;
mod steer;

use crate::needs;
use emlab::device::philox::Key;
use emlab::device::{DType, Device, Tensor};
use half::bf16;

/// The element types that kernels are compiled for.
const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

/// Relative error that roundings inside a kernel may add in bf16.
const INSIDE: f64 = 5e-4;

/// The card; without one there is nothing to compare.
fn card() -> Option<Device> {
    needs::gpu("kernels against the CPU").map(Device::Cuda)
}

/// Random numbers in (−1, 1) that `dtype` holds exactly, as f32 on the host; the same for the same name.
fn random(name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let key = Key::new(5, &[name]);
    let values = (0..shape.iter().product()).map(|i| 2.0 * key.uniform(0, i as u32) - 1.0).collect();
    rounded(&Tensor::from_f32(shape, values), dtype)
}

/// What `dtype` makes of host f32 numbers, as f32 again.
fn rounded(x: &Tensor, dtype: DType) -> Tensor {
    if dtype == DType::Bf16 { x.to_bf16().to_f32() } else { x.clone() }
}

/// A host f32 tensor on the card, as `dtype`.
fn upload(tensor: &Tensor, dtype: DType, card: Device) -> Tensor {
    if dtype == DType::Bf16 { tensor.to_bf16().to(card).unwrap() } else { tensor.to(card).unwrap() }
}

/// A tensor on the card that an op must overwrite.
fn poisoned(shape: &[usize], dtype: DType, card: Device) -> Tensor {
    upload(&Tensor::from_f32(shape, vec![f32::NAN; shape.iter().product()]), dtype, card)
}

/// The values of a tensor on the card.
fn download(tensor: &Tensor) -> Vec<f32> {
    tensor.numbers().unwrap()
}

/// ‖found − exact‖ / ‖exact‖.
fn distance(found: &[f32], exact: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(exact).map(|(f, e)| square(f64::from(f - e))).sum();
    let size: f64 = exact.iter().map(|e| square(f64::from(*e))).sum();
    (difference / size.max(1e-12)).sqrt()
}

/// Asserts that a result on the card agrees with the exact one, for activations of type `dtype`.
fn agree(name: &str, found: &Tensor, exact: &[f32], dtype: DType) {
    agree_within(name, found, exact, dtype, 0.0);
}

/// [`agree`], where both sides may be off by more: together by `rounding`.
fn agree_within(name: &str, found: &Tensor, exact: &[f32], dtype: DType, rounding: f64) {
    let found = download(found);
    assert_eq!(found.len(), exact.len(), "{name}: elements");
    let rounded: Vec<f32> = exact.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    let limit = if dtype == DType::Bf16 { 2.0 * distance(&rounded, exact) + INSIDE } else { 1e-5 };
    let limit = limit + rounding;
    let error = distance(&found, exact);
    // Written so that NaN fails.
    let good = error <= limit;
    if good {
        return;
    }
    let off = |i: &usize| (found[*i] - exact[*i]).abs();
    let worse = |a: &usize, b: &usize| off(a).partial_cmp(&off(b)).unwrap_or(std::cmp::Ordering::Greater);
    let worst = (0..found.len()).max_by(worse).unwrap_or(0);
    panic!(
        "{name} in {}: error {error:.2e}, allowed {limit:.2e}; element {worst} is {}, expected {}",
        dtype.name(),
        found[worst],
        exact[worst]
    );
}

/// A tensor on the host that an op must overwrite.
fn host(shape: &[usize]) -> Tensor {
    Tensor::from_f32(shape, vec![f32::NAN; shape.iter().product()])
}

/// What `f` gives; run twice, it gives the same bits.
fn twice<const K: usize>(name: &str, f: impl Fn() -> [Tensor; K]) -> [Tensor; K] {
    let (first, second) = (f(), f());
    for (i, (a, b)) in first.iter().zip(&second).enumerate() {
        let bits = |t: &Tensor| download(t).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert!(bits(a) == bits(b), "{name}: result {i} differs the second time");
    }
    first
}
