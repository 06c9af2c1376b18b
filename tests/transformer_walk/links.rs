//! Links to lines: `` `quoted` ([src/ops/norm.rs:4](../src/ops/norm.rs#L4)) `` says that line 4 holds what is quoted. The
//! quotation is the last piece of code before the link in its paragraph.

use super::{Checked, root};

/// `text` with every number right.
pub fn check(text: &str) -> Checked {
    let (mut faults, mut lines) = (Vec::new(), Vec::new());
    // The paragraph so far: a quotation may stand in the line before its link.
    let mut before = String::new();
    for (line, number) in text.lines().zip(1..) {
        if line.is_empty() || line.starts_with('|') {
            before.clear();
        }
        let mut rest = line;
        let mut right = String::new();
        while let Some(link) = Link::next(rest) {
            right += &rest[..link.start];
            before += &rest[..link.start];
            let quoted = quotation(&before);
            let found = link.line_of(quoted);
            match found {
                Ok(found) => {
                    if found != link.line {
                        faults.push(format!(
                            "{number}: `{quoted}` stands at {}:{found}, not {}",
                            link.path, link.line
                        ));
                    }
                    right += &link.at(found);
                }
                Err(fault) => {
                    faults.push(format!("{number}: {fault}"));
                    right += &rest[link.start..link.end];
                }
            }
            rest = &rest[link.end..];
        }
        right += rest;
        before = before + rest + "\n";
        lines.push(right);
    }
    Checked { text: lines.join("\n") + "\n", faults }
}

/// A link and where it stands in a line.
struct Link<'a> {
    start: usize,
    end: usize,
    path: &'a str,
    line: usize,
}

impl<'a> Link<'a> {
    /// The first of a line: a path, a colon and a number in brackets, then its address.
    fn next(line: &'a str) -> Option<Self> {
        let mut from = 0;
        while let Some(middle) = line[from..].find("](../").map(|at| from + at) {
            let start = line[..middle].rfind('[')?;
            let end = middle + line[middle..].find(')')? + 1;
            if let Some((path, number)) = line[start + 1..middle].split_once(':') {
                return Some(Self { start, end, path, line: number.parse().unwrap_or_default() });
            }
            from = end;
        }
        None
    }

    /// The link, to another line.
    fn at(&self, line: usize) -> String {
        let path = self.path;
        format!("[{path}:{line}](../{path}#L{line})")
    }

    /// The line that holds what is quoted, of several the nearest.
    fn line_of(&self, quoted: &str) -> Result<usize, String> {
        let Ok(text) = std::fs::read_to_string(root().join(self.path)) else {
            return Err(format!("{} is nowhere", self.path));
        };
        let holds = text.lines().zip(1..).filter(|(line, _)| !quoted.is_empty() && line.contains(quoted));
        let nearest = holds.map(|(_, number)| number).min_by_key(|number: &usize| number.abs_diff(self.line));
        nearest.ok_or_else(|| format!("`{quoted}` stands nowhere in {}", self.path))
    }
}

/// The last piece of code of a text.
fn quotation(text: &str) -> &str {
    let Some((rest, _)) = text.rsplit_once('`') else { return "" };
    rest.rsplit_once('`').map_or("", |(_, quoted)| quoted)
}

#[test]
fn a_line_that_has_moved_is_found() {
    let text = "The sum `y = x · r · g(w)` ([src/ops/norm.rs:40](../src/ops/norm.rs#L40)), see\n[all](../README.md).\n";
    let checked = check(text);
    assert!(
        checked.faults[0].starts_with("1: `y = x · r · g(w)` stands at src/ops/norm.rs:"),
        "{:?}",
        checked.faults
    );
    assert!(check(&checked.text).faults.is_empty());
    let nowhere = check("`no such text` ([src/lib.rs:1](../src/lib.rs#L1))\n");
    assert_eq!(nowhere.faults, ["1: `no such text` stands nowhere in src/lib.rs"]);
}
