//! Numbers and URLs as text.

use std::fmt::Write;

pub(super) use crate::html::{escape, visible};

/// `text`, percent-encoded for a URL.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
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

/// A p value for people: 0.0123, 9.1e-5, < 1e-300.
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
