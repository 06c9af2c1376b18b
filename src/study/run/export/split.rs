//! The parts of a data set: its configurations, their splits, and how much each holds.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::Result;
use crate::device::file;
use crate::study::plan::cell::Cell;
use crate::study::store;

/// The size of a file or a split.
#[derive(Clone, Copy, Default)]
pub(super) struct SplitSize {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// One of the two tables: its name and its splits.
pub(super) struct DatasetConfig {
    pub(super) name: &'static str,
    pub(super) splits: BTreeMap<String, SplitSize>,
}

impl DatasetConfig {
    /// Writes a cell's rows, if it has any.
    pub(super) fn write(&mut self, out: &Path, cell: &Cell, rows: &[Value]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let split = split(&cell.condition.name);
        let folder = out.join(self.name).join(&split);
        file::make_folder(&folder)?;
        let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
        // Conditions that share a split have separate files in it.
        let name = format!("{}-{}-{}.jsonl", cell.model.name, cell.condition.name, cell.format.name());
        store::write_whole(&folder.join(name), lines.as_bytes())?;
        let size = self.splits.entry(split).or_default();
        *size = SplitSize { rows: size.rows + rows.len(), bytes: size.bytes + lines.len() };
        Ok(())
    }
}

/// A condition's split: the hub allows letters, digits and '_'.
fn split(condition: &str) -> String {
    condition.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}
