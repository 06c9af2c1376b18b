//! How long one run takes.

use std::time::Instant;

use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::model::place::Place;

/// Overwritten before each run on a GPU, so that nothing of the run's inputs is left in its cache. A write of a GiB also
/// keeps the card busy for longer than the host needs to queue the run behind it: launches cost what they cost the card.
const FLUSH: usize = 1 << 30;

/// Times runs: on a GPU by events on its stream, on the CPU by the wall.
pub struct Clock {
    place: Place,
    flush: Tensor,
}

impl Clock {
    /// # Errors
    /// If the GPU has no GiB free.
    pub fn new(place: Place) -> Result<Self> {
        let bytes = if place.device == Device::Cpu { 0 } else { FLUSH };
        Ok(Self { place, flush: Tensor::zeros_on(place.device, DType::F32, &[bytes / 4])? })
    }

    /// Seconds of one run.
    ///
    /// # Errors
    /// Those of the run.
    pub fn once(&mut self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        match self.place.device {
            Device::Cuda(gpu) => {
                self.flush.clear()?;
                gpu.time(work)
            }
            Device::Cpu => {
                let start = Instant::now();
                work()?;
                Ok(start.elapsed().as_secs_f64())
            }
        }
    }
}
