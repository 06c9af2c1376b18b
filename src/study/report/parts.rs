//! What sections are made of: tables, figures with their captions, and the numbers behind them as CSV.

use std::fmt::Write;

use super::text::percent_encoded;
use crate::study::analyze::Rate;
use crate::study::csv::{Field, line};

/// A table of numbers.
pub struct Csv {
    /// Its file's name, without `.csv`.
    pub name: &'static str,
    /// The whole file.
    pub text: String,
}

impl Csv {
    pub(super) fn new(
        name: &'static str,
        heads: &[&str],
        rows: impl IntoIterator<Item = Vec<Field>>,
    ) -> Self {
        let mut text = heads.join(",") + "\r\n";
        for row in rows {
            debug_assert_eq!(row.len(), heads.len(), "{name}");
            text += &line(&row);
        }
        Self { name, text }
    }

    /// A link that saves the file. It contains the data, so that it works wherever the report is.
    pub(super) fn link(&self) -> String {
        format!(
            "<a class=\"csv\" download=\"{name}.csv\" href=\"data:text/csv;charset=utf-8,{}\">{name}.csv</a>",
            percent_encoded(&self.text),
            name = self.name
        )
    }
}

/// A figure with what it shows and a link to its numbers.
pub(super) fn figure(html: &mut String, svg: &str, caption: &str, numbers: &Csv) {
    let link = numbers.link();
    let _ = writeln!(
        html,
        "<figure><div class=\"scroll\">{svg}</div><figcaption>{caption} {link}</figcaption></figure>"
    );
}

/// The distinct items, in the order of their first occurrence.
pub(super) fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// A table whose first `texts` columns are text and whose others are numbers. Cells must already be HTML.
pub(super) fn table(
    html: &mut String,
    caption: &str,
    heads: &[&str],
    texts: usize,
    rows: impl Iterator<Item = Vec<String>>,
) {
    let class = |i: usize| if i < texts { " class=\"text\"" } else { "" };
    html.push_str("<div class=\"scroll\"><table>");
    if !caption.is_empty() {
        let _ = write!(html, "<caption>{caption}</caption>");
    }
    html.push_str("<thead><tr>");
    for (i, head) in heads.iter().enumerate() {
        let _ = write!(html, "<th{}>{head}</th>", class(i));
    }
    html.push_str("</tr></thead><tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{cell}</td>", class(i));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
}

/// Rate and interval; nothing without answers.
pub(super) fn rate(rate: Rate) -> [Field; 3] {
    let interval = rate.rate.map(|_| (rate.low, rate.high));
    [rate.rate.into(), interval.map(|ends| ends.0).into(), interval.map(|ends| ends.1).into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_holds_the_whole_file() {
        let csv = Csv::new("t", &["a", "b"], [vec![Field::from("=x"), Field::from(0.5)]]);
        assert_eq!(csv.text, "a,b\r\n'=x,0.5\r\n");
        assert!(csv.link().contains("charset=utf-8,a%2Cb"));
    }
}
