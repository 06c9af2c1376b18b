//! The head of a kernel file: its sections, and the constants that it names.

/// The sections that every head has, besides one of `traffic` (what memory bounds) and `work` (what arithmetic bounds).
pub const REQUIRED: [&str; 3] = ["launch", "numerics", "measured"];

/// What a line of `measured` begins with where the benchmark has no case for the kernel; the reason follows.
pub const NOT_BENCHED: &str = "not benched: ";

/// What it begins with where there is one; the name of the op follows.
pub const BENCH: &str = "cargo bench --bench ops -- ";

/// The text of a section, its lines joined; `head` is a head without comment marks, as [`super::source::head`] gives it.
pub fn section(head: &str, label: &str) -> Option<String> {
    let mut lines =
        head.lines().skip_while(|line| words(line).next() != Some(label) || !line.starts_with("  "));
    let first = lines.next()?.trim_start().strip_prefix(label)?.trim();
    // What goes on is indented as far as the text.
    let more = lines.take_while(|line| line.starts_with("            ")).map(str::trim);
    Some(std::iter::once(first).chain(more).collect::<Vec<_>>().join(" "))
}

/// The names of constants in a text: words of capitals, digits and underscores, of two letters or more, with one capital.
pub fn constants(text: &str) -> impl Iterator<Item = &str> {
    let constant = |word: &&str| {
        word.len() > 1
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(constant)
}

/// What bounds the kernel, by its section `work` or `traffic`.
pub fn bound(head: &str) -> &'static str {
    if section(head, "work").is_some() { "arithmetic" } else { "memory" }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_read_with_the_lines_that_go_on() {
        let head = "Adds.\n  y = a + b; launch it\n\n  load-time  C, REAL_IS_FLOAT (1: float)\n  launch     N blocks,\n              \
            each of 32 threads\n  measured   not benched: too small";
        assert_eq!(section(head, "launch").unwrap(), "N blocks, each of 32 threads");
        assert_eq!(section(head, "measured").unwrap(), "not benched: too small");
        assert_eq!(section(head, "work"), None);
        assert_eq!(constants(&section(head, "load-time").unwrap()).collect::<Vec<_>>(), ["REAL_IS_FLOAT"]);
    }
}
