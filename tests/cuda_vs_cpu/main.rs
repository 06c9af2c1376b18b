//! Every kernel against the CPU's definition, on random inputs, at odd shapes and at those of real models.
//!
//! In f32 a result must agree to 1e-5 (relative, over the whole tensor). In bf16 both sides get the same rounded inputs,
//! and the kernel's error may be twice what rounding the exact result to bf16 costs. Outputs start as NaN.

#![allow(clippy::unwrap_used)]

mod attention;
mod linear;

use emlab::device::philox::Key;
use emlab::device::{DType, Device, Gpu, Tensor};
use half::bf16;

/// The element types that kernels are compiled for.
const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

/// The card, or `None`, said once: then there is nothing to compare.
fn card() -> Option<Device> {
    static SAID: std::sync::Once = std::sync::Once::new();
    match Gpu::open() {
        Ok(gpu) => Some(Device::Cuda(gpu)),
        Err(why) => {
            SAID.call_once(|| eprintln!("kernels are not compared with the CPU: {why}"));
            None
        }
    }
}

/// Random numbers in (−1, 1) that `dtype` holds exactly, as f32 on the host; the same for the same name.
fn random(name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let key = Key::new(5, &[name]);
    let values = (0..shape.iter().product()).map(|i| 2.0 * key.uniform(0, i as u32) - 1.0).collect();
    let tensor = Tensor::from_f32(shape, values);
    if dtype == DType::Bf16 { tensor.to_bf16().to_f32() } else { tensor }
}

/// A host f32 tensor on the card, as `dtype`.
fn upload(tensor: &Tensor, dtype: DType, card: Device) -> Tensor {
    if dtype == DType::Bf16 { tensor.to_bf16().to(card).unwrap() } else { tensor.to(card).unwrap() }
}

/// A tensor on the card that an op must overwrite.
fn poisoned(shape: &[usize], dtype: DType, card: Device) -> Tensor {
    let host = Tensor::from_f32(shape, vec![f32::NAN; shape.iter().product()]);
    upload(&host, dtype, card)
}

/// The values of a tensor on the card.
fn download(tensor: &Tensor) -> Vec<f32> {
    match tensor.dtype() {
        DType::Bf16 => tensor.read::<bf16>().unwrap().into_iter().map(bf16::to_f32).collect(),
        _ => tensor.read::<f32>().unwrap(),
    }
}

/// ‖found − exact‖ / ‖exact‖.
fn distance(found: &[f32], exact: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(exact).map(|(f, e)| square(f64::from(f - e))).sum();
    let size: f64 = exact.iter().map(|e| square(f64::from(*e))).sum();
    (difference / size.max(1e-30)).sqrt()
}

/// Asserts that a result on the card agrees with the exact one, for activations of type `dtype`.
fn agree(name: &str, found: &Tensor, exact: &[f32], dtype: DType) {
    let found = download(found);
    assert_eq!(found.len(), exact.len(), "{name}: elements");
    let rounded: Vec<f32> = exact.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    let limit = if dtype == DType::Bf16 { 2.0 * distance(&rounded, exact) + 1e-5 } else { 1e-5 };
    let error = distance(&found, exact);
    // Written so that NaN fails.
    let good = error <= limit;
    assert!(good, "{name} in {}: error {error:.2e}, allowed {limit:.2e}", dtype.name());
}
