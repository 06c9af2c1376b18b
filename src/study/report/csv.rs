//! The numbers behind the figures as CSV (RFC 4180).

use super::text::percent_encoded;

/// A table of numbers.
pub struct Csv {
    /// Its file's name, without `.csv`.
    pub name: &'static str,
    /// The whole file.
    pub text: String,
}

/// A cell.
pub(in crate::study) enum Cell {
    Text(String),
    Count(usize),
    Number(f64),
    /// What does not exist.
    Nothing,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Number(number) } else { Self::Nothing }
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

impl Csv {
    pub(super) fn new(name: &'static str, heads: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> Self {
        let mut text = heads.join(",") + "\r\n";
        for row in rows {
            debug_assert_eq!(row.len(), heads.len(), "{name}");
            text += &line(&row);
        }
        Self { name, text }
    }

    /// A link that saves the file. It holds the file, so that it works wherever the report is.
    pub(super) fn link(&self) -> String {
        format!(
            "<a class=\"csv\" download=\"{name}.csv\" href=\"data:text/csv;charset=utf-8,{}\">{name}.csv</a>",
            percent_encoded(&self.text),
            name = self.name
        )
    }
}

/// A line of a table, with its end.
pub(in crate::study) fn line(row: &[Cell]) -> String {
    row.iter().map(field).collect::<Vec<_>>().join(",") + "\r\n"
}

/// A spreadsheet takes text that begins like a formula for one, and runs it: an apostrophe makes it text. Numbers are
/// ours, and stay what they are.
fn field(cell: &Cell) -> String {
    match cell {
        Cell::Nothing => String::new(),
        Cell::Count(count) => count.to_string(),
        Cell::Number(number) => number.to_string(),
        Cell::Text(text) => {
            let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
            let text = if formula { format!("'{text}") } else { text.clone() };
            if text.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_a_formula_and_numbers_are_numbers() {
        let row = ["=HYPERLINK(\"x\")", "+1", "-1", "@a", "\ta", "\ra", "a,b", "plain"].map(Cell::from);
        let numbers = [Cell::from(-0.5), Cell::from(7_usize), Cell::from(f64::NAN), Cell::from(None::<f64>)];
        let csv = Csv::new("t", &["c"; 12], [row.into_iter().chain(numbers).collect()]);
        let (_, line) = csv.text.split_once("\r\n").unwrap();
        assert_eq!(line, "\"'=HYPERLINK(\"\"x\"\")\",'+1,'-1,'@a,'\ta,\"'\ra\",\"a,b\",plain,-0.5,7,,\r\n");
        assert!(csv.link().contains("charset=utf-8,c%2Cc"));
    }
}
