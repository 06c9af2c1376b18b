//! How a study is run, apart from what its plan says.

use std::path::PathBuf;

use crate::model::place::Place;

/// See the module.
#[derive(Clone, Debug)]
pub struct Options {
    /// Judge the answers; otherwise they are only sampled, and can be judged later.
    pub judge: bool,
    /// The name of the one judge to ask; none asks them all.
    pub only_judge: Option<String>,
    /// Where the caches of what servers have said lie; none is the user's cache folder.
    pub judge_cache: Option<PathBuf>,
    /// Show progress on stderr.
    pub progress: bool,
    /// A remark at the head of the report.
    pub notice: String,
    /// Where models compute.
    pub place: Place,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            judge: true,
            only_judge: None,
            judge_cache: None,
            progress: true,
            notice: String::new(),
            place: Place::CPU,
        }
    }
}
