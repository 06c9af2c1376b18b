//! Lays text out in the columns of a terminal.

/// The width if stdout is not a terminal and COLUMNS is not set.
const DEFAULT: usize = 160;
/// The least and the greatest width: longer lines are hard to read.
const BOUNDS: [usize; 2] = [60, 240];

/// The width to use: COLUMNS, or the terminal's.
pub fn terminal() -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let found = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    asked.or_else(found).unwrap_or(DEFAULT).clamp(BOUNDS[0], BOUNDS[1])
}

/// The columns that a text occupies: combining marks occupy none.
pub fn columns(text: &str) -> usize {
    text.chars().filter(|c| !('\u{300}'..'\u{370}').contains(c)).count()
}

/// A section heading: the title, a rule to the right edge, and in it `from`, where the section comes from.
pub fn rule(title: &str, from: &str, width: usize) -> String {
    let from = if from.is_empty() { String::new() } else { format!(" {from} ──") };
    let line = format!("── {title} ");
    let rest = width.saturating_sub(columns(&line) + columns(&from));
    line + &"─".repeat(rest) + &from
}

/// Wraps a line at spaces. Later lines are indented to where the text of the first begins: after its first word and the
/// gap that follows, if it has them.
pub fn wrap(line: &str, width: usize) -> Vec<String> {
    broken(line, width, hang(line))
}

/// The indentation of the lines that continue this one.
fn hang(line: &str) -> usize {
    /// A gap counts only within this many columns; later ones are inside a sentence.
    const LABEL: usize = 24;
    let start = indent(line);
    let gap = line[start..].find("  ").filter(|at| *at < LABEL);
    gap.map_or(start, |at| columns(&line[..start + at]) + indent(&line[start + at..]))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Like [`wrap`], for code: continuation lines are indented.
fn wrap_code(line: &str, width: usize) -> Vec<String> {
    broken(line, width, (indent(line) + 8).min(width / 2))
}

fn broken(line: &str, width: usize, hang: usize) -> Vec<String> {
    let (mut lines, mut rest) = (Vec::new(), line.trim_end().to_owned());
    while columns(&rest) > width {
        // The first byte beyond the width.
        let end = rest
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| columns(&rest[..*at]) == width)
            .unwrap_or(rest.len());
        let at = rest[..end].rfind(' ').filter(|at| *at > indent(&rest)).unwrap_or(end);
        let next = format!("{}{}", " ".repeat(hang), rest[at..].trim_start());
        lines.push(rest[..at].trim_end().to_owned());
        rest = next;
    }
    lines.push(rest);
    lines
}

fn fold<'a>(lines: impl Iterator<Item = &'a str>, width: usize) -> String {
    lines.flat_map(|line| wrap(line, width)).fold(String::new(), |text, line| text + &line + "\n")
}

/// The lines of a table with their notes: beside the lines if there is room for all of them, otherwise below each line.
pub fn annotated(lines: &[String], notes: &[String], width: usize) -> String {
    let note = |i: usize| notes.get(i).map_or(String::new(), |note| note.replace('\n', "   "));
    let widest = lines.iter().map(|line| columns(line)).max().unwrap_or_default();
    let room = (0..lines.len()).all(|i| widest + 3 + columns(&note(i)) <= width);
    let mut text = String::new();
    for (i, line) in lines.iter().enumerate() {
        if room {
            let fill = " ".repeat(widest - columns(line) + 3);
            text += &(format!("{line}{fill}{}", note(i)).trim_end().to_owned() + "\n");
            continue;
        }
        text += &fold([&**line].into_iter(), width);
        for line in notes.get(i).map_or("", |note| note).lines() {
            text += &(broken(&format!("    {line}"), width, 8).join("\n") + "\n");
        }
    }
    text
}

/// Prose and formulas. If any line is too wide, all are rewrapped, after continuation lines are joined to the line above.
pub fn paragraph(text: &str, width: usize) -> String {
    if text.lines().all(|line| columns(line) <= width) {
        return fold(text.lines(), width);
    }
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let start = indent(line);
        match lines.last_mut().filter(|above| continues(above, start) && !line.trim().is_empty()) {
            Some(above) => above.extend([" ", line.trim_start()]),
            None => lines.push(line.to_owned()),
        }
    }
    fold(lines.iter().map(|line| &**line), width)
}

/// Whether a line that begins in column `start` continues the one above: prose at the margin, or text below its text.
fn continues(above: &str, start: usize) -> bool {
    !above.is_empty() && (start == 0 && indent(above) == 0 || start > indent(above) && start == hang(above))
}

/// Two pieces of code, side by side if there is room, otherwise one below the other.
pub fn beside(left: &str, right: &str, width: usize) -> String {
    /// The width from which two columns of code are easier to read than one.
    const TWO: usize = 140;
    if width < TWO || left.is_empty() || right.is_empty() {
        let code = |text: &str| {
            text.lines()
                .flat_map(|line| wrap_code(line, width))
                .fold(String::new(), |text, line| text + &line + "\n")
        };
        let gap = if left.is_empty() || right.is_empty() { "" } else { "\n" };
        return code(left) + gap + &code(right);
    }
    let each = (width - 3) / 2;
    let [left, right] =
        [left, right].map(|text| text.lines().flat_map(|line| wrap_code(line, each)).collect::<Vec<_>>());
    let line = |i: usize| {
        let [left, right] = [&left, &right].map(|lines| lines.get(i).map_or("", |line| line));
        format!("{left}{} │ {right}", " ".repeat(each - columns(left))).trim_end().to_owned() + "\n"
    };
    (0..left.len().max(right.len())).map(line).collect()
}

/// Rows of cells in aligned columns; the first row holds the headings. Numbers are right-aligned, empty columns left out.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.first().map_or(0, Vec::len);
    let cells = |i: usize| rows.iter().skip(1).map(move |row| &row[i]);
    let filled: Vec<usize> = (0..count).filter(|i| cells(*i).any(|cell| !cell.is_empty())).collect();
    let number = |cell: &String| cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit());
    let layout: Vec<(usize, usize, bool)> = filled
        .into_iter()
        .map(|i| (i, rows.iter().map(|row| columns(&row[i])).max().unwrap_or_default(), cells(i).all(number)))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = layout.iter().map(|(i, width, right)| {
            let fill = " ".repeat(width - columns(&row[*i]));
            if *right { fill + &row[*i] } else { row[*i].clone() + &fill }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_and_go_on_below_their_text() {
        assert_eq!(wrap("  at   a block a row of it", 21), ["  at   a block a row", "       of it"]);
        assert_eq!(wrap("unbroken", 5), ["unbro", "ken"]);
        assert_eq!(columns("q\u{302} · r"), 5);
    }

    #[test]
    fn only_text_that_is_too_wide_is_broken_anew() {
        let text = "Head of one thing that\nis long.\n  at   a row of\n       it all\n  x = 1\n  y = 2\n";
        let narrow = "Head of one thing\nthat is long.\n  at   a row of it\n       all\n  x = 1\n  y = 2\n";
        assert_eq!([60, 21].map(|width| paragraph(text, width)), [text, narrow]);
    }

    #[test]
    fn two_columns_where_there_is_room() {
        assert_eq!(beside("a\nb", "c", 141), format!("a{0} │ c\nb{0} │\n", " ".repeat(68)));
        assert_eq!(beside("a\nb", "c", 139), "a\nb\n\nc\n");
        assert_eq!(beside("", "c", 200), "c\n");
    }

    #[test]
    fn a_table_leaves_empty_columns_out_and_puts_numbers_to_the_right() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["op", "none", "ms"]), row(["norm", "", "12.5"]), row(["x", "", "3"])];
        let lines = table(&rows);
        assert_eq!(lines, ["op      ms", "norm  12.5", "x        3"]);
        let notes = ["", "here", "there"].map(str::to_owned);
        assert_eq!(annotated(&lines, &notes, 18), "op      ms\nnorm  12.5   here\nx        3   there\n");
        assert_eq!(
            annotated(&lines, &notes, 17),
            "op      ms\nnorm  12.5\n    here\nx        3\n    there\n"
        );
    }
}
