//! A question to a server; tasks with equal prompts share it.

use crate::study::judge::aggregate::Distribution;

/// See the module.
pub(super) struct Query {
    /// Its key in the cache; see [`cache::key`](super::cache::key).
    pub(super) key: String,
    /// The tasks that it answers, by index.
    pub(super) tasks: Vec<usize>,
}

impl Query {
    /// The answer, for each of the tasks.
    pub(super) fn answered<'a>(
        &'a self,
        said: &'a Distribution,
    ) -> impl Iterator<Item = (usize, Distribution)> + 'a {
        self.tasks.iter().map(|&task| (task, said.clone()))
    }
}
