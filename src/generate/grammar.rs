//! Constrained decoding: a token is allowed only if the text remains a prefix of a JSON object.
//!
//! The grammar is an automaton over bytes with a stack (RFC 8259, strings in UTF-8). The tokens allowed in a
//! state are found by walking over the vocabulary, sorted by its bytes. The result is cached, since an answer visits few
//! distinct states. Spaces, digits and depth are bounded, so that a model cannot go on forever.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::model::tokenizer::Tokenizer;
use crate::ops::mask::Masks;

/// Most spaces between two tokens of JSON.
const SPACES: u8 = 16;
/// Most digits of each part of a number; with two of the exponent every number is one of double precision.
const DIGITS: u8 = 15;
const EXPONENT_DIGITS: u8 = 2;
/// Most objects and arrays inside each other.
const DEPTH: u8 = 16;

/// The state of the automaton after a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GrammarState {
    at: At,
    /// The open objects (1) and arrays (0), the innermost in the lowest bit.
    open: u32,
    depth: u8,
    /// Spaces immediately before.
    spaces: u8,
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// The object.
    Start,
    /// A key, or the end of an object that has none.
    FirstKey,
    Key,
    Colon,
    Value,
    /// A value, or the end of an array that has none.
    FirstValue,
    /// A comma, or the end of the innermost object or array.
    Comma,
    /// Nothing: the object is complete.
    End,
    /// The rest of a string; of a character, `left` bytes, the next of them between `low` and `high`.
    Text {
        key: bool,
        left: u8,
        low: u8,
        high: u8,
    },
    /// What follows a backslash.
    Escape {
        key: bool,
    },
    /// `left` hexadecimal digits; after a first D only those that make no surrogate.
    Hex {
        key: bool,
        left: u8,
        after_d: bool,
    },
    /// The rest of a number.
    Number {
        part: NumberPart,
        digits: u8,
    },
    /// The rest of `true`, `false` or `null`.
    Word {
        word: Word,
        from: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum NumberPart {
    /// After a minus.
    Sign,
    /// After a leading zero.
    Zero,
    Whole,
    /// After the point: at least one digit.
    Fraction,
    /// After the e.
    ExponentSign,
    Exponent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Word {
    True,
    False,
    Null,
}

impl Word {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::True => b"true",
            Self::False => b"false",
            Self::Null => b"null",
        }
    }
}

/// Inside a string, between characters.
const fn text(key: bool) -> At {
    At::Text { key, left: 0, low: 0, high: 0 }
}

impl GrammarState {
    /// Before the object.
    pub const START: Self = Self { at: At::Start, open: 0, depth: 0, spaces: 0 };

    /// Whether the object is complete.
    pub fn is_whole(self) -> bool {
        self.at == At::End
    }

    fn go(self, at: At) -> Self {
        Self { at, spaces: 0, ..self }
    }

    fn opened(self, object: bool) -> Option<Self> {
        let at = if object { At::FirstKey } else { At::FirstValue };
        let open = self.open << 1 | u32::from(object);
        (self.depth < DEPTH).then_some(Self { at, open, depth: self.depth + 1, spaces: 0 })
    }

    fn closed(self, object: bool) -> Option<Self> {
        let depth = self.depth.checked_sub(1)?;
        let at = if depth == 0 { At::End } else { At::Comma };
        (self.open & 1 == u32::from(object)).then_some(Self { at, open: self.open >> 1, depth, spaces: 0 })
    }

    fn is_in_object(self) -> bool {
        self.open & 1 == 1
    }

    /// The state after one more byte; none if the byte is not allowed.
    pub fn step(self, byte: u8) -> Option<Self> {
        let between = !matches!(
            self.at,
            At::Text { .. }
                | At::Escape { .. }
                | At::Hex { .. }
                | At::Word { .. }
                | At::Number { .. }
                | At::End
        );
        if between && matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            return (self.spaces < SPACES).then_some(Self { spaces: self.spaces + 1, ..self });
        }
        match (self.at, byte) {
            (At::Start, b'{') => self.opened(true),
            (At::FirstKey | At::Key, b'"') => Some(self.go(text(true))),
            (At::FirstKey | At::Comma, b'}') => self.closed(true),
            (At::FirstValue | At::Comma, b']') => self.closed(false),
            (At::Comma, b',') if self.is_in_object() => Some(self.go(At::Key)),
            (At::Colon, b':') | (At::Comma, b',') => Some(self.go(At::Value)),
            (At::Value | At::FirstValue, _) => self.value(byte),
            (At::Text { key, left, low, high }, _) => self.text(key, left, [low, high], byte),
            (At::Escape { key }, b'u') => Some(self.go(At::Hex { key, left: 4, after_d: false })),
            (At::Escape { key }, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                Some(self.go(text(key)))
            }
            (At::Hex { key, left, after_d }, _) => {
                let surrogate = after_d && !matches!(byte, b'0'..=b'7');
                let first_d = left == 4 && matches!(byte, b'd' | b'D');
                let rest = At::Hex { key, left: left - 1, after_d: first_d };
                let next = if left == 1 { text(key) } else { rest };
                (byte.is_ascii_hexdigit() && !surrogate).then(|| self.go(next))
            }
            (At::Word { word, from }, _) => {
                let bytes = word.bytes();
                let next = if from as usize + 1 == bytes.len() {
                    At::Comma
                } else {
                    At::Word { word, from: from + 1 }
                };
                (bytes[from as usize] == byte).then(|| self.go(next))
            }
            (At::Number { part, digits }, _) => self.number(part, digits, byte),
            _ => None,
        }
    }

    fn value(self, byte: u8) -> Option<Self> {
        let number = |part, digits| Some(self.go(At::Number { part, digits }));
        let word = |word| Some(self.go(At::Word { word, from: 1 }));
        match byte {
            b'"' => Some(self.go(text(false))),
            b'{' => self.opened(true),
            b'[' => self.opened(false),
            b'-' => number(NumberPart::Sign, 0),
            b'0' => number(NumberPart::Zero, 1),
            b'1'..=b'9' => number(NumberPart::Whole, 1),
            b't' => word(Word::True),
            b'f' => word(Word::False),
            b'n' => word(Word::Null),
            _ => None,
        }
    }

    fn text(self, key: bool, left: u8, [low, high]: [u8; 2], byte: u8) -> Option<Self> {
        if left > 0 {
            let next = At::Text { key, left: left - 1, low: 0x80, high: 0xBF };
            let next = if left == 1 { text(key) } else { next };
            return (low..=high).contains(&byte).then(|| self.go(next));
        }
        let more = |left, low, high| Some(self.go(At::Text { key, left, low, high }));
        match byte {
            b'"' => Some(self.go(if key { At::Colon } else { At::Comma })),
            b'\\' => Some(self.go(At::Escape { key })),
            0x20..=0x7F => Some(self.go(text(key))),
            // Unicode 15, table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF.
            0xC2..=0xDF => more(1, 0x80, 0xBF),
            0xE0 => more(2, 0xA0, 0xBF),
            0xED => more(2, 0x80, 0x9F),
            0xE1..=0xEF => more(2, 0x80, 0xBF),
            0xF0 => more(3, 0x90, 0xBF),
            0xF1..=0xF3 => more(3, 0x80, 0xBF),
            0xF4 => more(3, 0x80, 0x8F),
            _ => None,
        }
    }

    fn number(self, part: NumberPart, digits: u8, byte: u8) -> Option<Self> {
        let go = |part, digits| Some(self.go(At::Number { part, digits }));
        let most = if part == NumberPart::Exponent { EXPONENT_DIGITS } else { DIGITS };
        match (part, byte) {
            (NumberPart::Sign, b'0') => return go(NumberPart::Zero, 1),
            (NumberPart::Sign, b'1'..=b'9') => return go(NumberPart::Whole, 1),
            (NumberPart::Whole | NumberPart::Fraction | NumberPart::Exponent, b'0'..=b'9') => {
                return if digits < most { go(part, digits + 1) } else { None };
            }
            (NumberPart::ExponentSign, b'0'..=b'9') => return go(NumberPart::Exponent, 1),
            (NumberPart::ExponentSign, b'+' | b'-') if digits == 0 => return go(NumberPart::ExponentSign, 1),
            (NumberPart::Zero | NumberPart::Whole, b'.') => return go(NumberPart::Fraction, 0),
            (NumberPart::Zero | NumberPart::Whole, b'e' | b'E') => return go(NumberPart::ExponentSign, 0),
            (NumberPart::Fraction, b'e' | b'E') if digits > 0 => return go(NumberPart::ExponentSign, 0),
            _ => {}
        }
        // A number ends at any byte that may follow a value.
        let whole = match part {
            NumberPart::Zero | NumberPart::Whole | NumberPart::Exponent => true,
            NumberPart::Fraction => digits > 0,
            NumberPart::Sign | NumberPart::ExponentSign => false,
        };
        if whole { Self { at: At::Comma, spaces: 0, ..self }.step(byte) } else { None }
    }
}

/// The grammar over one tokenizer's vocabulary.
#[derive(Debug)]
pub struct Grammar {
    /// Every token that stands for bytes, sorted by them.
    tokens: Vec<(Box<[u8]>, u32)>,
    /// The place in `tokens` of a token's bytes, by id.
    places: HashMap<u32, usize>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// The mask of each state visited.
    known: HashMap<GrammarState, u32>,
}

impl Grammar {
    /// For a model of `vocab` tokens whose answers end with one of the tokens `ends`.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, ends: &[u32]) -> Self {
        let bytes = |id: u32| Some((tokenizer.bytes(id)?.into_boxed_slice(), id));
        let mut tokens: Vec<_> =
            (0..vocab as u32).filter_map(bytes).filter(|(bytes, _)| !bytes.is_empty()).collect();
        tokens.sort_unstable();
        let places = tokens.iter().enumerate().map(|(place, (_, id))| (*id, place)).collect();
        Self { tokens, places, ends: ends.to_vec(), known: HashMap::new() }
    }

    /// The mask of the tokens allowed in a state, computed at the first visit.
    ///
    /// # Errors
    /// [`Error::Setting`] if no token is allowed.
    pub fn mask(&mut self, masks: &mut Masks, state: GrammarState) -> Result<u32> {
        if let Some(mask) = self.known.get(&state) {
            return Ok(*mask);
        }
        let mask = masks.add();
        let mut any = false;
        let mut allow = |token| {
            any = true;
            masks.allow(mask, token);
        };
        if state.is_whole() {
            self.ends.iter().copied().for_each(&mut allow);
        } else {
            walk(&self.tokens, 0, state, &mut allow);
        }
        if !any {
            let what = "the tokenizer has no token with which a JSON object could go on, or none that ends an answer";
            return Err(Error::Setting(what.into()));
        }
        self.known.insert(state, mask);
        Ok(mask)
    }

    /// The state after an allowed token.
    pub fn after(&self, state: GrammarState, token: u32) -> GrammarState {
        let Some(place) = self.places.get(&token) else { return state };
        let step = |state: GrammarState, byte: &u8| state.step(*byte);
        self.tokens[*place].0.iter().try_fold(state, step).unwrap_or(state)
    }
}

/// Reports the allowed ones among tokens that agree in their first `depth` bytes, which have led to `state`.
fn walk(mut tokens: &[(Box<[u8]>, u32)], depth: usize, state: GrammarState, allow: &mut dyn FnMut(u32)) {
    // Shorter ones sort first.
    while let Some(((bytes, id), rest)) = tokens.split_first().filter(|((bytes, _), _)| bytes.len() == depth)
    {
        debug_assert_eq!(bytes.len(), depth);
        allow(*id);
        tokens = rest;
    }
    while let Some((first, _)) = tokens.first() {
        let byte = first[depth];
        let (same, rest) = tokens.split_at(tokens.partition_point(|(bytes, _)| bytes[depth] <= byte));
        if let Some(next) = state.step(byte) {
            walk(same, depth + 1, next, allow);
        }
        tokens = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::philox::Key;

    fn end(text: &[u8]) -> Option<GrammarState> {
        text.iter().try_fold(GrammarState::START, |state, byte| state.step(*byte))
    }

    #[test]
    fn takes_what_a_parser_takes() {
        for text in [
            "{}",
            r#" { "a" : [ ] , "b":[1, -0.5e+10,2E3, 0, true,false , null, {"c":{}}] }"#,
            r#"{"é\n\"\\\u00e9\uD7ff": "日本 🦀"}"#,
        ] {
            assert!(end(text.as_bytes()).unwrap().is_whole(), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
        }
        for text in [
            "[",
            "1",
            "{,",
            "{}x",
            "{} ",
            r#"{"a" 1"#,
            r#"{"a":01"#,
            r#"{"a":1."#,
            r#"{"a":-}"#,
            r#"{"a":1,}"#,
            r#"{"a":[1,]"#,
            r#"{"a":[}"#,
            r#"{"a":"\x"#,
            r#"{"a":"\ud800"#,
            "{\"a\":\"\n",
            r#"{"a":tru}"#,
            r#"{"a":1e}"#,
            r#"{"a":.5"#,
        ] {
            assert!(end(text.as_bytes()).is_none_or(|state| !state.is_whole()), "{text}");
        }
        assert_eq!(end(b"{\"\xC0\x80"), None, "an overlong form");
        assert_eq!(end(b"{\"\xED\xA0"), None, "a surrogate");
    }

    /// Random walks through the grammar, byte by byte: every text that ends is JSON.
    #[test]
    fn whatever_ends_parses() {
        let mut ended = 0;
        for walk in 0..3000 {
            let key = Key::new(1, &["walk", &walk.to_string()]);
            let (mut state, mut text) = (GrammarState::START, Vec::new());
            while !state.is_whole() && text.len() < 200 {
                let may: Vec<u8> = (0..=255).filter(|byte| state.step(*byte).is_some()).collect();
                assert!(!may.is_empty(), "{state:?} after {text:?}");
                // Closing bytes are chosen more often, so that walks end.
                let closing: Vec<u8> = may.iter().copied().filter(|b| b"\"}]".contains(b)).collect();
                let from = if closing.is_empty() || key.uniform(0, text.len() as u32) < 0.5 {
                    &may
                } else {
                    &closing
                };
                let byte =
                    from[(key.uniform(1, text.len() as u32) * from.len() as f32) as usize % from.len()];
                text.push(byte);
                state = state.step(byte).unwrap();
            }
            if state.is_whole() {
                ended += 1;
                let parsed = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&text);
                assert!(parsed.is_ok(), "{:?}: {parsed:?}", String::from_utf8_lossy(&text));
            }
        }
        assert!(ended > 1000, "{ended}");
    }

    #[test]
    fn the_walk_finds_the_tokens_that_fit() {
        let list: [&[u8]; 8] = [b"{", b"{\"", b"{\"a\":", b"}", b"\"", b"a", b"{}", b"{}\n"];
        let mut tokens: Vec<(Box<[u8]>, u32)> =
            list.iter().enumerate().map(|(id, bytes)| ((*bytes).into(), id as u32)).collect();
        tokens.sort_unstable();
        for start in [&b""[..], b"{", b"{\"", b"{\"a\":"] {
            let state = end(start).unwrap();
            let mut found = Vec::new();
            walk(&tokens, 0, state, &mut |id| found.push(id));
            found.sort_unstable();
            let fits = |bytes: &[u8]| bytes.iter().try_fold(state, |state, byte| state.step(*byte)).is_some();
            let expected: Vec<u32> = (0..8).filter(|id| fits(list[*id as usize])).collect();
            assert_eq!(found, expected, "{start:?}");
        }
    }
}
