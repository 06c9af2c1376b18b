//! The list of kernels, a kernel by its name, and the page that shows one.

use serde::Serialize;

use crate::device::gpu::Facts;
use crate::device::{DType, compile};
use crate::error::{Error, Result};
use crate::model::spec::Spec;

use super::catalogue::{ENTRIES, Entry};
use super::measured::{self, Measured};
use super::resources::{self, Resources};
use super::source::{self, Excerpt};
use super::variants;

/// A kernel file, or one function of it.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    entry: &'static Entry,
    /// The function, if it is one.
    function: Option<&'static str>,
}

/// All that is known of a kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// The file, without `.cu`.
    pub name: &'static str,
    /// The head of the kernel file.
    pub head: String,
    /// The file of the definition, if there is one.
    pub definition: Option<&'static str>,
    /// The head of that file: the maths.
    pub maths: String,
    /// Whose the definition is, or why there is none; often nothing.
    pub note: &'static str,
    /// Each function beside its definition.
    pub functions: Vec<Pair>,
    /// What was measured.
    pub measured: Vec<Measured>,
}

/// A function of a kernel, and what defines it.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// The function.
    pub function: &'static str,
    /// The definition, and what it uses.
    pub definition: Vec<Excerpt>,
    /// The function, and what of its file it uses.
    pub kernel: Vec<Excerpt>,
}

/// A line of the list of kernels.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The file, without `.cu`.
    pub name: &'static str,
    /// What it computes.
    pub what: String,
    /// Its functions.
    pub functions: Vec<&'static str>,
}

/// Every kernel file, by name.
pub fn all() -> Vec<Line> {
    let line = |entry: &Entry| {
        let head = source::head(compile::text(entry.name), "//");
        let what = head.split_once(". ").map_or(&*head, |(sentence, _)| sentence);
        Line {
            name: entry.name,
            what: what.lines().next().unwrap_or_default().trim_end_matches(['.', ':', ';']).to_owned(),
            functions: entry.functions.iter().map(|(name, _)| *name).collect(),
        }
    };
    ENTRIES.iter().map(line).collect()
}

/// The kernel file, or the function of one, of this name.
///
/// # Errors
/// [`Error::Setting`] with the nearest names.
pub fn find(name: &str) -> Result<Kernel> {
    let name = name.trim_end_matches(".cu");
    let is = |entry: &&Entry| entry.name == name;
    if let Some(entry) = ENTRIES.iter().find(is) {
        return Ok(Kernel { entry, function: None });
    }
    let functions =
        || ENTRIES.iter().flat_map(|e| e.functions.iter().map(move |(function, _)| (e, *function)));
    if let Some((entry, function)) = functions().find(|(_, function)| *function == name) {
        return Ok(Kernel { entry, function: Some(function) });
    }
    let mut near: Vec<&str> = ENTRIES.iter().map(|e| e.name).chain(functions().map(|(_, f)| f)).collect();
    // Names that hold what was asked for come before those that differ by few letters.
    near.sort_by_key(|known| (!known.contains(name), distance(known, name)));
    near.dedup();
    Err(Error::Setting(format!(
        "no kernel `{name}`: the nearest are {}; `emlab inspect kernel` lists all",
        near[..3].join(", ")
    )))
}

/// Letters to be put in, taken out or changed to make `a` of `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

impl Kernel {
    /// What there is to read and was measured, with figures of this model if there are some.
    pub fn page(self, model: &str) -> Page {
        let entry = self.entry;
        let rust = entry.sources.iter().flat_map(|source| source::rust(source.path, source.text));
        let rust: Vec<Excerpt> = rust.collect();
        let cuda = source::cuda(&format!("kernels/{}.cu", entry.name), compile::text(entry.name));
        let pairs = entry.functions.iter().filter(|(name, _)| self.function.is_none_or(|own| own == *name));
        Page {
            name: entry.name,
            head: source::head(compile::text(entry.name), "//"),
            definition: entry.sources.first().map(|source| source.path),
            maths: entry.sources.first().map_or(String::new(), |source| source::head(source.text, "//!")),
            note: entry.note,
            functions: pairs
                .map(|(function, names)| Pair {
                    function,
                    definition: source::closure(&rust, names),
                    kernel: source::closure(&cuda, &[function]),
                })
                .collect(),
            measured: measured::rows(entry.measured, model),
        }
    }

    /// What its functions take of such a card, with the constants of a model of this `spec`, activations in bf16.
    ///
    /// # Errors
    /// As [`resources::resources`].
    pub fn resources(self, spec: &Spec, facts: &Facts) -> Result<Vec<Resources>> {
        let mut uses = variants::uses(spec, facts, DType::Bf16);
        uses.retain(|used| used.variant.source == self.entry.name);
        uses.retain(|used| self.function.is_none_or(|own| own == used.variant.function));
        resources::resources(&uses, facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_are_offered() {
        assert!(find("norm").is_ok() && find("norm.cu").is_ok() && find("norm_add_forward").is_ok());
        let error = |name| find(name).unwrap_err().to_string();
        assert!(error("nrom").contains("nearest are norm, "), "{}", error("nrom"));
        assert!(error("wgmma").contains("nearest are gemm_wgmma, "), "{}", error("wgmma"));
        assert_eq!([distance("norm", "nrom"), distance("", "ab"), distance("ab", "ab")], [2, 2, 0]);
    }
}
