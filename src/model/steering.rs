//! Steering: directions that are added to the residual stream, or erased from it, in every pass.
//!
//! ```text
//! add    x ← x + dose · v                     at a depth d: the stream after d blocks (0: the embedding)
//! erase  x ← x − (x·v / v·v) v                there, and between the attention and the MLP of the block before it; erased at
//!                                             every depth, nothing that a block reads has a component along v
//! ```
//! Sources: Turner et al., arXiv 2308.10248 (adding); Arditi et al., arXiv 2406.11717 (erasing).

use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::model::place::Place;
use crate::model::probe::{Probe, Site};
use crate::model::spec::Spec;
use crate::ops::steer;

/// How a direction acts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// It is added this many times.
    Add(f32),
    /// The stream's component along it is removed.
    Erase,
}

/// A direction, where it acts and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Steer {
    /// Blocks that the stream has passed, 0 to L.
    pub depth: usize,
    /// v (C).
    pub direction: Vec<f32>,
    /// How it acts.
    pub action: Action,
}

/// Steers as a pass uses them.
#[derive(Debug)]
pub(super) struct Steering {
    /// Each with its depth and its direction (C), f32; of length 1 where it is erased.
    steers: Vec<(usize, Tensor, Action)>,
}

impl Steering {
    pub(super) fn new(spec: &Spec, place: Place, steers: &[Steer]) -> Result<Self> {
        let place_one = |Steer { depth, direction, action }: &Steer| {
            if *depth > spec.layers {
                let layers = spec.layers;
                return Err(Error::Setting(format!("depth {depth}: this model has depths 0 to {layers}")));
            }
            if direction.len() != spec.channels {
                let (found, c) = (direction.len(), spec.channels);
                return Err(Error::Setting(format!(
                    "a direction of width {found}: this model's stream has {c}"
                )));
            }
            let length = direction.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let dose = if let Action::Add(dose) = action { *dose } else { 0.0 };
            if !(length.is_finite() && length > 0.0 && dose.is_finite()) {
                return Err(Error::Setting(
                    "a direction needs a length and a dose that are finite, and not 0".into(),
                ));
            }
            let scale = if *action == Action::Erase { 1.0 / length } else { 1.0 };
            let v = direction.iter().map(|x| (f64::from(*x) * scale) as f32).collect();
            Ok((*depth, Tensor::from_f32(&[spec.channels], v).to(place.device)?, *action))
        };
        Ok(Self { steers: steers.iter().map(place_one).collect::<Result<_>>()? })
    }

    /// Acts at every site before `probe` sees it.
    pub(super) fn before<'a>(&'a self, probe: &'a mut dyn Probe) -> Steered<'a> {
        Steered { steering: self, probe }
    }
}

/// Steering, followed by another probe.
pub(super) struct Steered<'a> {
    steering: &'a Steering,
    probe: &'a mut dyn Probe,
}

impl Probe for Steered<'_> {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        let depth = if site == Site::ResidualMid { Some(layer + 1) } else { site.depth(layer) };
        let mut changed = false;
        for (at, v, action) in &self.steering.steers {
            if depth != Some(*at) {
                continue;
            }
            match action {
                Action::Add(dose) if site != Site::ResidualMid => steer::add(x, v, *dose)?,
                Action::Erase => steer::erase(x, v)?,
                Action::Add(_) => continue,
            }
            changed = true;
        }
        Ok(self.probe.at(layer, site, x)? | changed)
    }
}
