//! Medians, and the limits of the machine that they are held against.

use emlab::Result;
use emlab::device::{DType, Device, Tensor, random};
use emlab::device::philox::Key;
use emlab::model::place::Place;

use super::clock::Clock;

/// Runs before any is counted: kernels are compiled and loaded, the clock rises.
const WARM_UP: usize = 3;
const RUNS: std::ops::RangeInclusive<usize> = 10..=100;
/// Seconds of counted runs after which `RUNS` may end early.
const ENOUGH: f64 = 0.15;
/// Bytes that are copied, on a GPU and on the CPU.
const COPY: [usize; 2] = [1 << 30, 1 << 27];

/// Times of many runs, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub median: f64,
    /// A tenth of the runs took less.
    pub low: f64,
    /// A tenth of the runs took more.
    pub high: f64,
    pub runs: usize,
}

/// Runs `work` many times. On the CPU, where a run may take seconds, three runs are enough if they are long.
///
/// # Errors
/// Those of `work`.
pub fn times(clock: &mut Clock, place: Place, work: &mut dyn FnMut() -> Result<()>) -> Result<Times> {
    let (warm_up, least) = if place.device == Device::Cpu { (1, 3) } else { (WARM_UP, *RUNS.start()) };
    for _ in 0..warm_up {
        clock.once(work)?;
    }
    let mut all = Vec::new();
    while all.len() < least || (all.len() < *RUNS.end() && all.iter().sum::<f64>() < ENOUGH) {
        all.push(clock.once(work)?);
    }
    all.sort_by(f64::total_cmp);
    let at = |part: usize| all[(all.len() - 1) * part / 10];
    Ok(Times { median: at(5), low: at(1), high: at(9), runs: all.len() })
}

/// Bytes a second of a copy within the device's memory, read and written ones both counted.
///
/// # Errors
/// If the device has too little memory.
pub fn copy_bandwidth(clock: &mut Clock, place: Place) -> Result<f64> {
    let bytes = COPY[usize::from(place.device == Device::Cpu)];
    let mut from = Tensor::zeros_on(place.device, DType::F32, &[bytes / 4])?;
    if place.device != Device::Cpu {
        random::normal(&mut from, 0, bytes / 4, Key::new(1, &["copy"]), 1.0)?;
    }
    let mut to = Tensor::zeros_on(place.device, DType::F32, &[bytes / 4])?;
    let times = times(clock, place, &mut || to.copy_from(&from))?;
    Ok(2.0 * bytes as f64 / times.median)
}
