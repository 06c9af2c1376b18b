//! Shared by all HTML pages that emlab writes: escaping, the style, and a content security policy.

use std::fmt::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// `text` with every character that HTML treats specially escaped. What a model wrote is untrusted data, and reaches a
/// page's markup through this function alone.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(visible(c)),
        }
    }
    escaped
}

/// Replaces control characters, and those that override the direction of text, by U+FFFD: they could make a text look
/// like another one.
pub(crate) fn visible(c: char) -> char {
    let turns = ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c);
    if turns || c.is_control() && c != '\t' && c != '\n' { '\u{fffd}' } else { c }
}

/// A value as JSON that is safe inside a script element. Escaped are `<`, which could begin the tag that ends the element;
/// U+2028 and U+2029, which end a line in JavaScript but not in JSON; and whatever [`visible`] replaces.
pub(crate) fn json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("text and finite numbers");
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        let harmless = c != '<' && visible(c) == c && !('\u{2028}'..='\u{2029}').contains(&c);
        if harmless {
            safe.push(c);
        } else {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        }
    }
    safe
}

/// The style of every page: fonts, and colours in light and dark.
const STYLE: &str = include_str!("html.css");

/// A page up to the start of its body. `style` is appended to the style of all pages. The content security policy admits our
/// style and script by their hashes: anything else that might end up in the file has no effect.
pub(crate) fn head(title: &str, style: &str, script: &str) -> String {
    let style = [STYLE, style].concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src '{}'; \
         script-src '{}'; base-uri 'none'; form-action 'none'\">\n\
         <title>{}</title>\n<style>{style}</style>\n</head>\n<body>\n",
        hash(&style),
        hash(script),
        escape(title)
    )
}

/// The hash by which a content security policy admits a script or a style.
fn hash(text: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(text)))
}

/// Base64 (RFC 4648), in which a content security policy writes hashes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_through() {
        assert_eq!(
            escape("<script>alert('x\"')</script>&\u{0}\u{202e}\n"),
            "&lt;script&gt;alert(&#39;x&quot;&#39;)&lt;/script&gt;&amp;\u{fffd}\u{fffd}\n"
        );
    }

    #[test]
    fn base_64_is_that_of_the_rfc() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn json_stays_inside_its_element() {
        let text = "</script>\u{202e}\u{2028}\u{85}é😀\n";
        let found = json(&[text]);
        assert_eq!(found, r#"["\u003c/script>\u202e\u2028\u0085é😀\n"]"#);
        assert_eq!(serde_json::from_str::<[String; 1]>(&found).unwrap()[0], text);
    }
}
