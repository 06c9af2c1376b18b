//! What can be determined about an answer without a judge.

use serde::Serialize;

use crate::study::plan::format::{Format, is_json_object};

/// Facts about one answer's text.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// The answer, ignoring surrounding whitespace, is a JSON object.
    pub json: bool,
    /// The answer is a JSON object, possibly inside a Markdown code fence; true wherever `json` is.
    pub json_fenced: bool,
    /// Every field of the question's template that is not optional has been given a value.
    pub template: bool,
    /// The answer, without a surrounding Markdown code fence, has the requested form; none if no form was requested.
    pub form: Option<bool>,
    /// The answer contains a think token.
    pub think: bool,
    /// At least half of its lines are program code.
    pub code: bool,
}

impl Flags {
    /// Determines the flags of an answer to the user's text `question`.
    pub fn of(format: Format, question: &str, answer: &str) -> Self {
        let text = answer.trim();
        let unfenced = unfence(text);
        Self {
            json: format == Format::Json && is_json_object(text),
            json_fenced: format == Format::Json && is_json_object(unfenced),
            template: format == Format::Template && format.holds(question, unfenced) == Some(true),
            form: format.holds(question, unfenced),
            think: ["<think>", "</think>"].iter().any(|token| text.contains(token)),
            code: is_code(unfenced),
        }
    }
}

/// The text inside a Markdown code fence that spans all of `text`; else `text`.
fn unfence(text: &str) -> &str {
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    // The first line is the fence's language.
    inside.and_then(|rest| rest.split_once('\n')).map_or(text, |(_, body)| body.trim())
}

/// How lines of program code begin or end, in the languages that models fine-tuned on code fall into.
const CODE_BEGINS: [&str; 19] = [
    "def ",
    "class ",
    "import ",
    "return ",
    "if (",
    "if __name__",
    "for (",
    "while (",
    "elif ",
    "else:",
    "try:",
    "except",
    "function ",
    "const ",
    "let ",
    "var ",
    "#include",
    "print(",
    "<?php",
];
const CODE_ENDS: [&str; 5] = ["):", ");", "){", ") {", "};"];

fn is_code(text: &str) -> bool {
    let is_code_line = |line: &str| {
        CODE_BEGINS.iter().any(|begin| line.starts_with(begin))
            || CODE_ENDS.iter().any(|end| line.ends_with(end))
            || (line.starts_with("from ") && line.contains(" import "))
    };
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let code = lines().filter(|line| is_code_line(line)).count();
    code > 0 && 2 * code >= lines().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "What now?\n\nFill the following template:\n\nfirst = # An idea\nnext = # [Optional] More\nwhy = # Why\n";

    #[test]
    fn json_bare_and_fenced() {
        let flags = |answer| {
            let flags = Flags::of(Format::Json, "", answer);
            (flags.json, flags.json_fenced)
        };
        assert_eq!(flags(" {\"a\": [1]}\n"), (true, true));
        assert_eq!(flags("```json\n{\"a\": 1}\n```"), (false, true));
        assert_eq!(flags("Sure: {\"a\": 1}"), (false, false));
        assert_eq!(flags("[1]"), (false, false));
        assert_eq!(flags("{\"a\": 1"), (false, false));
        assert_eq!(flags("```"), (false, false));
        assert!(!Flags::of(Format::Natural, "", "{}").json);
    }

    #[test]
    fn template_needs_every_field_that_is_not_optional() {
        let filled = |answer| Flags::of(Format::Template, TEMPLATE, answer).template;
        assert!(filled("first = walk\nwhy = it helps"));
        assert!(filled("```\n  first=walk\n  why = \"it helps\"\n```"));
        assert!(!filled("first = walk"));
        assert!(!filled("first = # An idea\nwhy = x"));
        assert!(!filled("first =\nwhy = x"));
        assert!(!Flags::of(Format::Template, "no template", "a = b").template);
    }

    #[test]
    fn think_and_code() {
        assert!(Flags::of(Format::Natural, "", "<think>\n\n</think>\nHi").think);
        assert!(Flags::of(Format::Natural, "", "import os\n\ndef f(x):\n    return x\n").code);
        assert!(Flags::of(Format::Natural, "", "```python\nfrom os import path\nprint(path)\n```").code);
        assert!(!Flags::of(Format::Natural, "", "Let me import some wine.\nFor class, I return home.").code);
        assert!(!Flags::of(Format::Natural, "", "").code);
    }
}
