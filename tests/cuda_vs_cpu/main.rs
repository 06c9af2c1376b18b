//! Every kernel against the CPU's definition of its op, on random inputs and poisoned outputs.
//!
//! At f32 the relative error (Frobenius norm) is at most 1e-5. At bf16 both sides get inputs that bf16 holds exactly,
//! and the error is at most twice that of the CPU's result merely rounded to bf16, and a little for intermediate
//! roundings. Without a GPU nothing is compared, and the tests say so.

#![allow(clippy::unwrap_used)]

mod attention;

use emlab::device::philox::Key;
use emlab::device::{DType, Device, Gpu, Tensor};

/// The GPU; a word about it if there is none.
fn card() -> Option<Device> {
    match Gpu::open() {
        Ok(gpu) => Some(Device::Cuda(gpu)),
        Err(error) => {
            eprintln!("left out: {error}");
            None
        }
    }
}

/// Random numbers in (−1, 1), the same for the same name, as `dtype` holds them; on the host, as f32.
fn random(name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let key = Key::new(5, &[name]);
    let n = shape.iter().product::<usize>();
    let x = Tensor::from_f32(shape, (0..n).map(|i| 2.0 * key.uniform(0, i as u32) - 1.0).collect());
    rounded(&x, dtype)
}

/// What `dtype` makes of host f32 numbers, as f32 again.
fn rounded(x: &Tensor, dtype: DType) -> Tensor {
    if dtype == DType::Bf16 { x.to_bf16().to_f32() } else { x.clone() }
}

/// Host f32 numbers on the card as `dtype`.
fn put(x: &Tensor, dtype: DType, card: Device) -> Tensor {
    if dtype == DType::Bf16 { x.to_bf16().to(card).unwrap() } else { x.to(card).unwrap() }
}

/// NaN everywhere: it must be overwritten.
fn poisoned(shape: &[usize], dtype: DType, card: Device) -> Tensor {
    put(&Tensor::from_f32(shape, vec![f32::NAN; shape.iter().product()]), dtype, card)
}

/// The numbers of a tensor on the card.
fn numbers(x: &Tensor) -> Vec<f32> {
    x.to(Device::Cpu).unwrap().to_f32().f32().to_vec()
}

/// Fails if `found`, on the card, is too far from `expected`, on the host.
fn close(name: &str, found: &Tensor, expected: &Tensor) {
    let (f, e) = (numbers(found), expected.f32());
    assert_eq!(found.shape(), expected.shape(), "{name}: shape");
    let distance = |a: &[f32]| a.iter().zip(e).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let norm = e.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-6);
    let limit = match found.dtype() {
        DType::F32 => 1e-5,
        _ => 2.0 * distance(expected.to_bf16().to_f32().f32()) / norm + 5e-4,
    };
    let error = distance(&f) / norm;
    if error <= limit {
        return;
    }
    let worst = (0..f.len()).max_by(|a, b| {
        let off = |i: &usize| (f[*i] - e[*i]).abs();
        off(a).partial_cmp(&off(b)).unwrap_or(std::cmp::Ordering::Greater)
    });
    let i = worst.unwrap_or(0);
    panic!("{name}: error {error:.2e}, limit {limit:.2e}; element {i} is {}, expected {}", f[i], e[i]);
}
