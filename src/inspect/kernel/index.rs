//! The index of `kernels/README.md`: from the heads of the files, the catalogue and the figures of `benches/results`.

use std::fmt::Write;

use crate::device::compile;

use super::catalogue::{ENTRIES, Entry};
use super::measured::{self, Measured};
use super::page::all;
use super::{head, source};

/// The model whose figures the index gives.
const MODEL: &str = "qwen3-8b";

/// The lines between which the index stands in `kernels/README.md`.
pub const MARKS: [&str; 2] =
    ["<!-- index: EMLAB_WRITE_INDEX=1 cargo test --test suite index -->\n", "<!-- /index -->\n"];

/// The table, in Markdown, with the sentence that says what its figures are of.
pub fn markdown() -> String {
    let rows: Vec<Measured> =
        ENTRIES.iter().flat_map(|entry| measured::rows(entry.measured, MODEL)).collect();
    let mut text = String::new();
    if let Some(row) = rows.first() {
        let Measured { gpu, date, .. } = row;
        let _ = writeln!(text, "{gpu}, {date}, sizes of {MODEL}, bf16:\n");
    }
    text += "| file | computes | op | bound by | of the limit, % |\n|---|---|---|---|---|\n";
    for (entry, line) in ENTRIES.iter().zip(all()) {
        let head = source::head(compile::text(entry.name), "//");
        let op = entry.sources.first().and_then(|source| source.path.strip_prefix("src/ops/"));
        let op = op.map_or("–".into(), |path| format!("`{}`", path.trim_end_matches(".rs")));
        let bound = head::bound(&head);
        let _ =
            writeln!(text, "| `{}.cu` | {} | {op} | {bound} | {} |", entry.name, line.what, figures(entry));
    }
    text
}

/// Each op of an entry with its share of the limit: of several sizes from the least to the largest, by rows where these
/// differ.
fn figures(entry: &Entry) -> String {
    let rows = measured::rows(entry.measured, MODEL);
    let mut ops: Vec<&str> = Vec::new();
    for row in &rows {
        if !ops.contains(&&*row.op) {
            ops.push(&row.op);
        }
    }
    let texts = ops.iter().map(|op| {
        // The first word is that of the column `op`.
        let name = op.split_once(' ').map_or("", |(_, rest)| rest);
        let of_op: Vec<&Measured> = rows.iter().filter(|row| row.op == *op).collect();
        format!("{name} {}", shares(&of_op)).trim().to_owned()
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// "93–95 at N=4096, 43–98 at N=1"; the sizes are left out where there is one.
fn shares(rows: &[&Measured]) -> String {
    let mut groups: Vec<(String, Vec<f64>)> = Vec::new();
    for row in rows {
        let (size, share) = (size(&row.case), row.limit_percent.unwrap_or_default());
        match groups.iter_mut().find(|(known, _)| *known == size) {
            Some((_, shares)) => shares.push(share),
            None => groups.push((size, vec![share])),
        }
    }
    let alone = groups.len() == 1;
    let texts = groups.iter().map(|(size, shares)| {
        let low = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let high = shares.iter().copied().fold(0.0, f64::max);
        let (low, high) = (format!("{low:.0}"), format!("{high:.0}"));
        let range = if low == high { low } else { format!("{low}–{high}") };
        if alone { range } else { format!("{range} at {size}") }
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// The rows, sequences or texts of a case: the first of its sizes that counts them; lists of lengths are shortened.
fn size(case: &str) -> String {
    let counts = |size: &&str| size.starts_with("N=") || size.starts_with("B=") || size.starts_with("T=");
    let size = case.split(' ').find(counts).unwrap_or(case);
    match (size.split_once('+'), size.rsplit_once('+')) {
        (Some((first, _)), Some((_, last))) => format!("{first}+…+{last}"),
        _ => size.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_count_rows() {
        assert_eq!(size("part=qkv N=100 O=6144"), "N=100");
        assert_eq!(size("T=131+157+399x2 H=8"), "T=131+…+399x2");
        assert_eq!(size("E=7"), "E=7");
    }
}
