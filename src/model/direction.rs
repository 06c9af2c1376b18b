//! [`Directions`]: directions of the residual stream that separate two sets of texts, one of each kind at every depth, as a
//! file.
//!
//! ```text
//! mean_difference   m₊ − m₋, the means of the two sets                   (L+1, C)
//! probe             that of a regularised linear classifier, as long     (L+1, C)
//! midpoints         of (m₊ + m₋)/2 on each, in doses                     (2, L+1)
//! depth             where they separate the sets best                    (1)
//! ```
//! A dose is a whole vector. The mean difference takes the mean of one set to that of the other, and the probe is as long.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::{DType, Tensor};
use crate::error::{Error, Result};
use crate::model::spec::Spec;
use crate::model::steering::{Action, Steer};
use crate::model::tensor_file::{read_safetensors, write_safetensors};

/// Which of the directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The difference of the sets' means.
    #[default]
    MeanDifference,
    /// The normal of a linear classifier's separating plane.
    Probe,
}

impl Kind {
    /// Both, in the order of the file.
    pub const ALL: [Self; 2] = [Self::MeanDifference, Self::Probe];

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeanDifference => "mean_difference",
            Self::Probe => "probe",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("{name:?} is no kind of direction: mean_difference or probe"))
    }
}

/// The directions of a model at every depth 0 to L.
#[derive(Clone, Debug, PartialEq)]
pub struct Directions {
    /// By kind and depth: v (C), which points from the negative set to the positive one.
    pub vectors: [Vec<Vec<f32>>; 2],
    /// By kind and depth: m·v / v·v, where m is the midpoint of the sets' means.
    pub midpoints: [Vec<f32>; 2],
    /// The depth at which they separate the sets best.
    pub depth: usize,
}

impl Directions {
    /// The vector (C) of a kind at a depth.
    ///
    /// # Errors
    /// [`Error::Setting`] for a depth that the model does not have.
    pub fn vector(&self, kind: Kind, depth: usize) -> Result<&[f32]> {
        let vectors = &self.vectors[kind as usize];
        vectors.get(depth).map(Vec::as_slice).ok_or_else(|| {
            let layers = vectors.len() - 1;
            Error::Setting(format!("depth {depth}: the direction has depths 0 to {layers}"))
        })
    }

    /// The position of a stream x (C) along a direction, in doses from the midpoint of the sets: x·v / v·v − midpoint. Along the
    /// mean difference, the mean of the positive set is at ½ and that of the negative one at −½.
    ///
    /// # Errors
    /// As [`vector`](Self::vector), or where the sets do not differ.
    pub fn projection(&self, kind: Kind, depth: usize) -> Result<impl Fn(&[f32]) -> f64> {
        let v = self.vector(kind, depth)?;
        let midpoint = f64::from(self.midpoints[kind as usize][depth]);
        let along = move |x: &[f32]| x.iter().zip(v).map(|(x, v)| f64::from(*x) * f64::from(*v)).sum::<f64>();
        let square = along(v);
        if square == 0.0 {
            return Err(Error::Setting(format!("depth {depth}: the two sets do not differ there")));
        }
        Ok(move |x: &[f32]| along(x) / square - midpoint)
    }

    /// The default depths for steering: adding happens at the best depth, erasing at every depth.
    pub fn default_depths(&self, action: Action) -> Vec<usize> {
        match action {
            Action::Add(_) => vec![self.depth],
            Action::Erase => (0..self.vectors[0].len()).collect(),
        }
    }

    /// Steers for [`Transformer::steer`](crate::model::transformer::Transformer::steer): at each of the `depths` its own
    /// direction.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    pub fn steers(&self, kind: Kind, depths: &[usize], action: Action) -> Result<Vec<Steer>> {
        let steer =
            |&depth: &usize| Ok(Steer { depth, direction: self.vector(kind, depth)?.to_vec(), action });
        depths.iter().map(steer).collect()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Those of [`read_safetensors`]; [`Error::File`] if it holds something else.
    pub fn read(path: &Path) -> Result<Self> {
        let tensors = read_safetensors(path)?;
        let find = |name: &str, whole: bool| {
            let fits = |(found, tensor): &&(String, Tensor)| {
                found == name && (tensor.dtype() == DType::U32) == whole
            };
            tensors.iter().find(fits).map(|(_, tensor)| tensor)
        };
        let rows = |name: &str| {
            let tensor = find(name, false)?.to_f32();
            let [n, c] = tensor.dims().ok()?;
            let rows = tensor.f32().chunks_exact(c.max(1)).map(<[f32]>::to_vec).collect::<Vec<_>>();
            Some(([n, c], rows))
        };
        let read = || {
            let (shape, mean_difference) = rows(Kind::MeanDifference.name())?;
            let (same, probe) = rows(Kind::Probe.name())?;
            let ([two, depths], midpoints) = rows("midpoints")?;
            let depth = *find("depth", true)?.u32().first()? as usize;
            let sound = same == shape && [two, depths] == [2, shape[0]] && depth < depths;
            let midpoints = sound.then(|| midpoints.try_into().ok()).flatten()?;
            Some(Self { vectors: [mean_difference, probe], midpoints, depth })
        };
        read().ok_or_else(|| {
            Error::file(path, "holds no directions: expected what `emlab inspect direction` writes")
        })
    }

    /// Reads a file for a model of this spec; errors refer to the model as `model`.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::File`] if it holds those of another.
    pub fn read_for(path: &Path, model: &str, spec: &Spec) -> Result<Self> {
        let directions = Self::read(path)?;
        let [depths, width] = [directions.vectors[0].len(), directions.vectors[0][0].len()];
        if [depths, width] == [spec.layers + 1, spec.channels] {
            return Ok(directions);
        }
        let what = format!(
            "holds directions of width {width} at {depths} depths; the stream of model {model:?} has width {} and {} depths",
            spec.channels,
            spec.layers + 1
        );
        Err(Error::file(path, what))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// Those of [`write_safetensors`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let depths = self.vectors[0].len();
        let shape = [depths, self.vectors[0][0].len()];
        let [mean_difference, probe] =
            [0, 1].map(|kind| Tensor::from_f32(&shape, self.vectors[kind].concat()));
        let midpoints = Tensor::from_f32(&[2, depths], self.midpoints.concat());
        let depth = Tensor::from_u32(&[1], vec![self.depth as u32]);
        let tensors = [
            (Kind::MeanDifference.name().to_owned(), &mean_difference),
            (Kind::Probe.name().to_owned(), &probe),
            ("midpoints".to_owned(), &midpoints),
            ("depth".to_owned(), &depth),
        ];
        write_safetensors(path, &tensors, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directions() -> Directions {
        Directions {
            vectors: [vec![vec![1.0, 0.0], vec![0.0, 2.0]], vec![vec![0.6, 0.8], vec![2.0, 0.0]]],
            midpoints: [vec![0.5, -1.0], vec![0.0, 0.25]],
            depth: 1,
        }
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("direction.safetensors");
        directions().write(&path).unwrap();
        assert_eq!(Directions::read(&path).unwrap(), directions());
        write_safetensors(&path, &[("depth".into(), &Tensor::from_u32(&[1], vec![0]))], &[]).unwrap();
        let error = Directions::read(&path).unwrap_err().to_string();
        assert!(error.contains("holds no directions"), "{error}");
    }

    #[test]
    fn projections_are_in_doses_and_steers_take_their_own_depth() {
        let directions = directions();
        let projection = directions.projection(Kind::MeanDifference, 1).unwrap();
        // (3·2)/4 + 1
        assert!((projection(&[7.0, 3.0]) - 2.5).abs() < 1e-12);
        let steers = directions.steers(Kind::Probe, &[0, 1], Action::Erase).unwrap();
        assert_eq!(steers.iter().map(|s| s.direction[0]).collect::<Vec<_>>(), [0.6, 2.0]);
        assert_eq!(directions.default_depths(Action::Add(1.0)), [1]);
        assert_eq!(directions.default_depths(Action::Erase), [0, 1]);
        let error = directions.steers(Kind::Probe, &[2], Action::Erase).unwrap_err().to_string();
        assert!(error.contains("depths 0 to 1"), "{error}");
    }
}
