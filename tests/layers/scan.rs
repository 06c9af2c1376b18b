//! What a source file says of other modules: its imports, the paths in its code, the modules it declares.
//!
//! A scanner of tokens, not a parser: paths stand inside macro calls, too, and there a parser sees only tokens.
//! Comments, strings and everything under `#[cfg(test)]` are left out.

/// A word, a string (quotes and all) or a mark; `::` is one mark.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// A path as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Mention {
    pub line: usize,
    /// The modules of the file around it: `["cuda"]` inside `mod cuda { … }`.
    pub within: Vec<String>,
    /// `["crate", "device", "Tensor"]`.
    pub path: Vec<String>,
    /// What kind of mention it is.
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A leaf of a `use`, and the name it gives.
    Import(String),
    /// A leaf of a `use` that ends in `*`.
    Glob,
    /// A path in the code.
    Code,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub mentions: Vec<Mention>,
    /// Modules that lie in files of their own: the modules of this file around the declaration, and the name.
    pub modules: Vec<(Vec<String>, String)>,
    /// Modules written in this file.
    pub inline: Vec<Vec<String>>,
    /// Names defined here, with the modules around them.
    pub items: Vec<(Vec<String>, String)>,
    /// Lines of items that a map does not hold: everything but `mod name;` and `use`.
    pub more_than_a_map: Vec<usize>,
}

/// Splits a text into tokens; comments vanish.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let (length, kept) = token(rest);
        if kept {
            found.push(Token { text: &rest[..length], line });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// The length of what `rest` starts with, and whether it is a token (or a comment, or space).
fn token(rest: &str) -> (usize, bool) {
    let first = rest.chars().next().expect("some text");
    if first.is_whitespace() {
        return (first.len_utf8(), false);
    }
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if rest.starts_with("::") {
        return (2, true);
    }
    if let Some(length) = string(rest) {
        return (length, true);
    }
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (if word > 0 { word } else { first.len_utf8() }, true)
}

/// The length of a comment in `/* … */`; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the string, character or lifetime that `rest` starts with, if it does.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|after| match *prefix {
            "br" | "cr" | "r" => after.trim_start_matches('#').starts_with('"'),
            "c" => after.starts_with('"'),
            _ => after.starts_with(['"', '\'']),
        })
    })?;
    let after = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = after.len() - after.trim_start_matches('#').len();
        let close = format!("\"{}", "#".repeat(hashes));
        let start = prefix.len() + hashes + 1;
        return Some(rest[start..].find(&close).map_or(rest.len(), |end| start + end + close.len()));
    }
    let quote = after.chars().next()?;
    if quote == '\'' {
        let mut inside = after[1..].chars();
        let (first, second) = (inside.next()?, inside.next());
        if first != '\\' && second != Some('\'') {
            // A lifetime.
            let name = after[1..].find(|c: char| !c.is_alphanumeric() && c != '_');
            return Some(prefix.len() + 1 + name.unwrap_or(after.len() - 1));
        }
    }
    let mut escaped = false;
    let end = after[1..].find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(prefix.len() + end.map_or(after.len(), |end| end + 2))
}

/// Lines on which the word `unsafe` stands in code, tests included, and whether `mod cuda { … }` is around it.
pub fn unsafe_lines(text: &str) -> Vec<(usize, bool)> {
    let tokens = tokens(text);
    let (mut depth, mut cuda, mut found) = (0, None, Vec::new());
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => {
                depth += 1;
                if i >= 2 && tokens[i - 2].text == "mod" && tokens[i - 1].text == "cuda" {
                    cuda = cuda.or(Some(depth));
                }
            }
            "}" => {
                if cuda == Some(depth) {
                    cuda = None;
                }
                depth -= 1;
            }
            "unsafe" => found.push((token.line, cuda.is_some())),
            _ => {}
        }
    }
    found
}

/// Reads a file.
pub fn scan(text: &str) -> Source {
    let mut scanner = Scanner { tokens: tokens(text), ..Scanner::default() };
    while scanner.at < scanner.tokens.len() {
        scanner.step();
    }
    scanner.found
}

#[derive(Default)]
struct Scanner<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// The braces that are open: the name of a module, or none.
    open: Vec<Option<String>>,
    found: Source,
}

impl<'a> Scanner<'a> {
    /// The text `ahead` of the current token, or "" past the end.
    fn peek(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).map_or("", |token| token.text)
    }

    fn previous(&self) -> &'a str {
        if self.at == 0 { "" } else { self.tokens[self.at - 1].text }
    }

    fn line(&self) -> usize {
        self.tokens[self.at].line
    }

    fn within(&self) -> Vec<String> {
        self.open.iter().flatten().cloned().collect()
    }

    /// Takes one token, or all of an import, a path or an item of a test.
    fn step(&mut self) {
        if self.at_test() {
            return self.skip_item();
        }
        if self.open.is_empty() {
            self.hold_against_a_map();
        }
        match self.peek(0) {
            "#" if ["[", "!"].contains(&self.peek(1)) && self.open.is_empty() => self.attribute(),
            "{" => self.push(None),
            "}" => {
                self.open.pop();
                self.at += 1;
            }
            "pub" if self.peek(1) == "(" => self.at = self.closing(self.at + 1) + 1,
            "mod" if self.peek(2) == ";" => {
                self.found.modules.push((self.within(), self.peek(1).to_owned()));
                self.at += 3;
            }
            "mod" if self.peek(2) == "{" => {
                let name = self.peek(1).to_owned();
                self.at += 2;
                self.push(Some(name));
                self.found.inline.push(self.within());
            }
            // `use<'a>` names the lifetimes of an opaque type.
            "use" if self.peek(1) != "<" => self.import(),
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" if is_word(self.peek(1)) => {
                self.found.items.push((self.within(), self.peek(1).to_owned()));
                self.at += 1;
            }
            text if is_word(text) && self.peek(1) == "::" => self.path(),
            _ => self.at += 1,
        }
    }

    fn push(&mut self, module: Option<String>) {
        self.open.push(module);
        self.at += 1;
    }

    /// The place of the bracket that closes the one at `open`.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0;
        for (i, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return i;
            }
        }
        self.tokens.len()
    }

    /// Whether an attribute stands here that keeps its item for tests: `cfg(test)`, `cfg(doctest)`, `cfg(all(test, …))`.
    fn at_test(&self) -> bool {
        let words: Vec<&str> = (0..6).map(|i| self.peek(i)).collect();
        matches!(
            words[..],
            ["#", "[", "cfg", "(", "test" | "doctest", ..] | ["#", "[", "cfg", "(", "all", "("]
        ) && (words[4] != "all" || self.peek(6) == "test")
    }

    /// Skips an item and the attributes before it.
    fn skip_item(&mut self) {
        while self.peek(0) == "#" {
            self.at = self.closing(self.at + 1) + 1;
        }
        while self.at < self.tokens.len() {
            match self.peek(0) {
                ";" => return self.at += 1,
                // The end of what the item stands in: it was a field or a last expression.
                "}" => return,
                "(" | "[" => self.at = self.closing(self.at) + 1,
                "{" => return self.at = self.closing(self.at) + 1,
                _ => self.at += 1,
            }
        }
    }

    /// An attribute outside of all items; the paths in it count.
    fn attribute(&mut self) {
        let end = self.closing(self.at + 1 + usize::from(self.peek(1) == "!"));
        while self.at < end {
            if is_word(self.peek(0)) && self.peek(1) == "::" {
                self.path();
            } else {
                self.at += 1;
            }
        }
        self.at = end + 1;
    }

    /// Notes an item that makes a file more than a map.
    fn hold_against_a_map(&mut self) {
        let item =
            ["fn", "struct", "enum", "trait", "type", "const", "static", "impl", "macro_rules", "unsafe"];
        let more = item.contains(&self.peek(0)) || self.peek(0) == "mod" && self.peek(2) == "{";
        if more && self.found.more_than_a_map.last() != Some(&self.line()) {
            self.found.more_than_a_map.push(self.line());
        }
    }

    /// `use …;`
    fn import(&mut self) {
        self.at += 1;
        self.tree(&mut Vec::new());
        self.at += 1;
    }

    /// A tree of a `use`, with what stands before it.
    fn tree(&mut self, before: &mut Vec<String>) {
        let depth = before.len();
        let line = self.line();
        // `::name`: surely another crate.
        if depth == 0 && self.peek(0) == "::" {
            before.push(String::new());
            self.at += 1;
        }
        loop {
            match self.peek(0) {
                "{" => {
                    self.at += 1;
                    while self.peek(0) != "}" && self.at < self.tokens.len() {
                        self.tree(before);
                        self.at += usize::from(self.peek(0) == ",");
                    }
                    self.at += 1;
                    break;
                }
                "*" => {
                    self.at += 1;
                    self.mention(line, before.clone(), Kind::Glob);
                    break;
                }
                word => {
                    // `r#name` comes as `r`, `#`, `name`.
                    before.push(word.to_owned());
                    self.at += 1;
                    if self.peek(0) == "::" {
                        self.at += 1;
                        continue;
                    }
                    self.leaf(line, before);
                    break;
                }
            }
        }
        before.truncate(depth);
    }

    /// The end of an import: `a::b`, `a::b as c`, `a::{self}`.
    fn leaf(&mut self, line: usize, path: &[String]) {
        let mut path = path.to_vec();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if self.peek(0) == "as" {
            self.peek(1).clone_into(&mut name);
            self.at += 2;
        }
        self.mention(line, path, Kind::Import(name));
    }

    /// A path in the code. What follows `::` or `.` goes on with something else: `Vec::<u8>::new`, `.collect::<_>()`.
    fn path(&mut self) {
        let (line, goes_on) = (self.line(), ["::", "."].contains(&self.previous()));
        let mut path = vec![self.peek(0).to_owned()];
        self.at += 1;
        while self.peek(0) == "::" {
            self.at += 1;
            if !is_word(self.peek(0)) {
                break;
            }
            path.push(self.peek(0).to_owned());
            self.at += 1;
        }
        if !goes_on {
            self.mention(line, path, Kind::Code);
        }
    }

    fn mention(&mut self, line: usize, path: Vec<String>, kind: Kind) {
        let within = self.within();
        self.found.mentions.push(Mention { line, within, path, kind });
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
