//! SVG figures, as text that stands inside the report.
//!
//! | file | holds |
//! |---|---|
//! | `draw.rs` | lines, texts, axes, frames, fields |
//! | `forest.rs` `facets.rs` | rates with their intervals, one a line; panels of them side by side |
//! | `scaling.rs` `doses.rs` | rates over the size of the model; over the dose of a direction |
//! | `density.rs` `bland_altman.rs` | where scores lie; where those of two raters lie apart |

mod bland_altman;
mod density;
mod doses;
mod draw;
mod facets;
mod forest;
mod scaling;

pub(super) use self::bland_altman::{Differences, Raters, bland_altman, squares};
pub(super) use self::density::{BINS, Panel, bins, density};
pub(super) use self::doses::doses;
pub(super) use self::facets::{Facet, FacetLine, facets};
pub(super) use self::forest::{Estimate, forest};
pub(super) use self::scaling::{Point, Series, scaling};
