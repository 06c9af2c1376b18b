//! Excerpts of source: a function, and what of the same file it uses.

use serde::Serialize;

/// A piece of a file at its outermost level: a function, a type, a constant, with the comment above it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Excerpt {
    /// Path in the repository.
    pub path: String,
    /// Line of the file at which it begins, from 1.
    pub line: usize,
    /// Its name; of an `impl` the head.
    pub name: String,
    /// Its text, moved to the left margin.
    pub text: String,
}

/// The comment that a file begins with, without its marks, `//!` for instance.
pub fn head(text: &str, mark: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix(mark));
    let lines: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n")
}

/// The pieces of a CUDA file.
pub fn cuda(path: &str, text: &str) -> Vec<Excerpt> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut all, mut start, mut depth) = (Vec::new(), None, 0);
    for (i, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default().trim_end();
        if start.is_none() && (code.is_empty() || code.starts_with('#')) {
            continue;
        }
        let first = *start.get_or_insert(i);
        depth += balance(code);
        if depth == 0 && (code.ends_with('}') || code.ends_with(';')) {
            let begin = first - lines[..first].iter().rev().take_while(|line| line.starts_with("//")).count();
            let name = cuda_name(&lines[first..=i].join("\n"));
            all.push(Excerpt { path: path.into(), line: begin + 1, name, text: lines[begin..=i].join("\n") });
            start = None;
        }
    }
    all
}

fn balance(code: &str) -> i32 {
    code.chars().map(|c| i32::from(c == '{') - i32::from(c == '}')).sum()
}

/// What a piece of CUDA declares.
fn cuda_name(text: &str) -> String {
    let mut code: String = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
    for attribute in ["__launch_bounds__", "__cluster_dims__", "__align__"] {
        while let Some((before, after)) = code.split_once(attribute) {
            code = format!("{before}{}", after.split_once(')').map_or("", |(_, rest)| rest));
        }
    }
    if let Some((_, after)) = code.split_once("struct ")
        && code.find("struct ") < code.find('(').or(Some(usize::MAX))
    {
        return words(after).next().unwrap_or_default().to_owned();
    }
    let end = code.find(['(', '=', '[', '{', ';']).unwrap_or(code.len());
    words(&code[..end]).last().unwrap_or_default().to_owned()
}

/// The pieces of the module `cpu` of a Rust file, or where there is none of the whole file.
pub fn rust(path: &str, text: &str) -> Vec<Excerpt> {
    let lines: Vec<&str> = text.lines().collect();
    let module = lines.iter().position(|line| line.trim_start_matches("pub ").starts_with("mod cpu {"));
    let (first, margin) = module.map_or((0, ""), |line| (line + 1, "    "));
    let closes = |line: &&str| *line == "}";
    let end = module.and_then(|line| Some(line + lines[line..].iter().position(closes)?));
    let last = end.unwrap_or(lines.len());
    let (mut all, mut at) = (Vec::new(), first);
    while at < last {
        let own = lines[at].strip_prefix(margin).filter(|line| !line.starts_with([' ', '/', '#']));
        let Some(name) = own.and_then(rust_name) else {
            at += 1;
            continue;
        };
        let ends = |line: &&str| line.strip_prefix(margin).is_some_and(|line| line.starts_with('}'));
        let one_line = lines[at].ends_with([';', '}']);
        let end = if one_line { at } else { (at..last).find(|i| ends(&lines[*i])).unwrap_or(at) };
        let above =
            |line: &&&str| line.trim_start().starts_with("///") || line.trim_start().starts_with("#[");
        let begin = at - lines[first..at].iter().rev().take_while(above).count();
        let text: Vec<&str> =
            lines[begin..=end].iter().map(|line| line.strip_prefix(margin).unwrap_or(line)).collect();
        all.push(Excerpt { path: path.into(), line: begin + 1, name, text: text.join("\n") });
        at = end + 1;
    }
    all
}

/// What a line of Rust declares: the name of a function, a type or a constant; of an `impl` its head.
fn rust_name(line: &str) -> Option<String> {
    if line.starts_with("impl") {
        return Some(line.trim_end_matches(" {").to_owned());
    }
    let visible =
        line.strip_prefix("pub").map_or(line, |rest| rest.split_once(' ').map_or("", |(_, rest)| rest));
    let kinds = ["const fn ", "fn ", "struct ", "enum ", "const ", "type "];
    let rest = kinds.iter().find_map(|kind| visible.strip_prefix(kind))?;
    words(rest).next().map(str::to_owned)
}

/// The pieces named, and what of `pieces` they use, and what that uses, in the order of the files; the names of an `impl`
/// may be cut short.
pub fn closure(pieces: &[Excerpt], names: &[&str]) -> Vec<Excerpt> {
    let named = |piece: &Excerpt| {
        names
            .iter()
            .any(|name| piece.name == *name || name.starts_with("impl ") && piece.name.starts_with(name))
    };
    let mut wanted: Vec<bool> = vec![false; pieces.len()];
    // A name may occur in several files: it is that of the first.
    if let Some(first) = pieces.iter().find(|piece| named(piece)) {
        for (wanted, piece) in wanted.iter_mut().zip(pieces) {
            *wanted = named(piece) && piece.path == first.path;
        }
    }
    loop {
        let texts: Vec<String> =
            pieces.iter().zip(&wanted).filter(|(_, w)| **w).map(|(p, _)| code(&p.text)).collect();
        let more: Vec<usize> = (0..pieces.len())
            .filter(|i| !wanted[*i] && texts.iter().any(|text| uses(text, &pieces[*i])))
            .filter(|i| !hidden(pieces, *i))
            .collect();
        if more.is_empty() {
            return pieces.iter().zip(wanted).filter(|(_, w)| *w).map(|(p, _)| p.clone()).collect();
        }
        for i in more {
            wanted[i] = true;
        }
    }
}

/// Whether a piece of the same name stands in a file before this one's.
fn hidden(pieces: &[Excerpt], i: usize) -> bool {
    pieces[..i].iter().any(|piece| piece.name == pieces[i].name && piece.path != pieces[i].path)
}

/// Whether some code calls or names a piece.
fn uses(text: &str, piece: &Excerpt) -> bool {
    let Some(head) = piece.name.strip_prefix("impl") else { return mentions(text, &piece.name) };
    // An impl by its type, or by a call of one of its methods.
    let kind = head.rsplit(" for ").next().and_then(|kind| words(kind).next()).unwrap_or_default();
    let methods = piece.text.split("fn ").skip(1).filter_map(|rest| words(rest).next());
    mentions(text, kind) || methods.map(|method| format!(".{method}(")).any(|call| text.contains(&call))
}

/// Whether a name stands in some code by itself: not as a field or method, and where it is that of a function, called.
fn mentions(text: &str, name: &str) -> bool {
    let function = name.starts_with(|c: char| c.is_lowercase());
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let alone = !before.ends_with(|c: char| c.is_alphanumeric() || "_.:".contains(c))
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        alone && (!function || after.starts_with(['(', '<', '{', '[']) || after.starts_with("::<"))
    })
}

/// Text without its comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The identifiers of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pieces: &[Excerpt]) -> Vec<&str> {
        pieces.iter().map(|piece| &*piece.name).collect()
    }

    #[test]
    fn cuda_is_cut_into_what_it_declares() {
        let text = "// Head.\n#include \"prelude.cuh\"\n\nstatic const int W = (C + 1) / 2; // wide\n\n// Adds.\n\
            template <typename T> struct Add {\n    T *y;\n};\n#if A\nextern __shared__ uint4 ring[];\n#endif\n\
            template <bool B>\n__device__ void help(int x) {\n    if (x) {\n    }\n}\n\
            extern \"C\" __global__ void\n#if A\n__cluster_dims__(2, 1, 1)\n#endif\n__launch_bounds__(W, 1)\n\
            main_one(float *y) {\n    help<true>(W);\n}\n\nextern \"C\" __global__ void other(float *y) { Add{y}; }\n";
        let pieces = cuda("k.cu", text);
        assert_eq!(names(&pieces), ["W", "Add", "ring", "help", "main_one", "other"]);
        assert_eq!((pieces[1].line, pieces[1].text.lines().next()), (6, Some("// Adds.")));
        assert_eq!(names(&closure(&pieces, &["main_one"])), ["W", "help", "main_one"]);
        assert_eq!(names(&closure(&pieces, &["other"])), ["Add", "other"]);
        assert_eq!(head(text, "//"), "Head.");
    }

    #[test]
    fn rust_is_cut_into_what_its_module_cpu_declares() {
        let text = "fn outside() {}\n\n/// The definition.\npub mod cpu {\n    use x;\n\n    const A: f32 = 1.0;\n\n    impl Gain {\n\
            \x20       fn of(self) {}\n    }\n\n    /// Does.\n    #[inline]\n    pub fn row(\n        gain: Gain,\n    ) {\n\
            \x20       gain.of();\n        A\n    }\n\n    fn forward() {\n        row(1);\n        x.outside();\n    }\n}\n\n\
            mod cuda {\n    fn forward() {}\n}\n";
        let pieces = rust("op.rs", text);
        assert_eq!(names(&pieces), ["A", "impl Gain", "row", "forward"]);
        assert!(pieces[2].text.starts_with("/// Does.\n#[inline]\npub fn row(\n    gain"));
        assert_eq!(names(&closure(&pieces, &["forward"])), ["A", "impl Gain", "row", "forward"]);
        assert_eq!(names(&closure(&pieces, &["impl Ga"])), ["impl Gain"]);
    }
}
