//! Medians of many runs.

use crate::Result;
use crate::device::Device;
use crate::model::place::Place;

use super::clock::Clock;

/// Runs before any is counted: kernels are compiled and loaded, the clock rises.
const WARM_UP: usize = 3;
const RUNS: std::ops::RangeInclusive<usize> = 10..=50;
/// Seconds of counted runs after which `RUNS` may end early.
const ENOUGH: f64 = 0.1;

/// Times of many runs, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Half of the runs took less.
    pub median: f64,
    /// A tenth of the runs took less.
    pub low: f64,
    /// A tenth of the runs took more.
    pub high: f64,
    /// Runs that were counted.
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
    let at = |part: usize| all[((all.len() - 1) * part + 5) / 10];
    Ok(Times { median: at(5), low: at(1), high: at(9), runs: all.len() })
}
