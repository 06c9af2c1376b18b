//! Text for HTML.

/// `text` with the characters that mean something in HTML made to mean themselves. What a model wrote is data: it
/// reaches the report through this function alone.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // HTML has no way to spell control characters and those that turn the direction of text around.
            '\t' | '\n' => escaped.push(c),
            c if c.is_control()
                || ('\u{202a}'..='\u{202e}').contains(&c)
                || ('\u{2066}'..='\u{2069}').contains(&c) =>
            {
                escaped.push('\u{fffd}');
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A share as per cent, with two significant digits or more.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        p if p == 0.0 || p >= 99.95 => 0,
        p if p >= 10.0 => 1,
        p if p >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// A probability as people read it: 0.0123, 9.1e-5, < 1e-300.
pub(super) fn p_value(p: f64) -> String {
    match p {
        p if p < 1e-300 => "< 1e-300".into(),
        p if p < 1e-3 => format!("{p:.1e}"),
        p => format!("{p:.3}"),
    }
}

/// A difference of shares in percentage points.
pub(super) fn points(difference: f64) -> String {
    format!("{:+.2}", 100.0 * difference)
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
    fn percentages() {
        for (share, text) in [
            (0.0, "0 %"),
            (0.0068, "0.68 %"),
            (0.00065, "0.065 %"),
            (0.5, "50 %"),
            (0.123_45, "12.3 %"),
            (1.0, "100 %"),
        ] {
            assert_eq!(percent(share), text);
        }
    }
}
