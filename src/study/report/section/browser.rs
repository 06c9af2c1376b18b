//! The browser of answers: the answers as data, and the script (`browser.js`) that shows them a page at a time.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::html;
use crate::study::analyze::rows::AnswerRow;
use crate::study::analyze::{Outcome, outcome};
use crate::study::judge::aggregate::Category;
use crate::study::plan::Thresholds;
use crate::study::report::input::Report;
use crate::study::report::text::visible;

pub(in crate::study::report) const SCRIPT: &str = include_str!("browser.js");

/// Maximum bytes of answers in a report; more would make it slow to send and to open.
const LARGEST: usize = 8 << 20;
/// Maximum characters of an answer.
const LONGEST: usize = 4000;
/// So many answers per question and cell take precedence over incoherent answers.
const SAMPLE: usize = 2;
/// Approximate bytes of a row besides its text.
const OVERHEAD: usize = 48;

/// The section.
pub(in crate::study::report) fn section(html: &mut String, report: &Report) {
    let chosen = choose(report.rows, report.summary.thresholds);
    html.push_str("<h2 id=\"browser\">Browse the answers</h2>\n");
    let _ = writeln!(html, "<p>{}</p>", extent(report, &chosen));
    html.push_str(
        "<noscript><p class=\"notice\">Browsing takes JavaScript. The answers of lowest alignment stand above.</p>\
         </noscript>\n<div id=\"answers\" hidden></div>\n<script type=\"application/json\" id=\"data\">",
    );
    html.push_str(&json(report, &chosen));
    let _ = writeln!(html, "</script>\n<script>{SCRIPT}</script>");
}

/// Indices of the answers in the report, in order: all if they fit, otherwise preferring rare outcomes.
fn choose(rows: &[AnswerRow], thresholds: Thresholds) -> Vec<usize> {
    let mut seen = BTreeMap::new();
    let mut ranked: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let of_cell = seen.entry((&row.model, &row.condition, &row.question)).or_insert(0);
        *of_cell += 1;
        let rank = match outcome(row, thresholds) {
            Outcome::Misaligned => 0,
            _ if *of_cell <= SAMPLE => 1,
            Outcome::None(_) => 2,
            Outcome::Incoherent => 3,
            // The rest in rounds, so that every cell keeps equally many.
            Outcome::Aligned | Outcome::Unjudged => 4 + *of_cell,
        };
        ranked.push((rank, i));
    }
    ranked.sort_unstable();
    let mut bytes = 0;
    let fits = |&(_, i): &(usize, usize)| {
        bytes += rows[i].answer.len().min(LONGEST) + OVERHEAD;
        bytes <= LARGEST
    };
    let mut chosen: Vec<usize> = ranked.into_iter().take_while(fits).map(|(_, i)| i).collect();
    chosen.sort_unstable();
    chosen
}

/// A sentence about which answers are included.
fn extent(report: &Report, chosen: &[usize]) -> String {
    if chosen.len() == report.rows.len() {
        return format!("All {} answers. They are what a model wrote, and may offend.", chosen.len());
    }
    let thresholds = report.summary.thresholds;
    let count = |of: fn(Outcome) -> bool| {
        let here = chosen.iter().filter(|&&i| of(outcome(&report.rows[i], thresholds))).count();
        let all = report.rows.iter().filter(|row| of(outcome(row, thresholds))).count();
        if here == all { format!("all {all}") } else { format!("{here} of {all}") }
    };
    format!(
        "{} of {} answers, for a page cannot hold them all: {} misaligned, {} without a score, {} incoherent, and {} \
         of the others, as many from each cell. The run’s folder has the rest. They are what a model wrote, and may \
         offend.",
        chosen.len(),
        report.rows.len(),
        count(|outcome| outcome == Outcome::Misaligned),
        count(|outcome| matches!(outcome, Outcome::None(_))),
        count(|outcome| outcome == Outcome::Incoherent),
        count(|outcome| matches!(outcome, Outcome::Aligned | Outcome::Unjudged)),
    )
}

/// Interns names, so that rows are short.
#[derive(Default)]
struct Names<'a> {
    names: Vec<String>,
    numbers: BTreeMap<&'a str, usize>,
}

impl<'a> Names<'a> {
    fn number(&mut self, name: &'a str) -> usize {
        let Self { names, numbers } = self;
        *numbers.entry(name).or_insert_with(|| {
            names.push(name.chars().map(visible).collect());
            names.len() - 1
        })
    }
}

#[derive(Serialize)]
struct Data {
    models: Vec<String>,
    conditions: Vec<String>,
    formats: Vec<String>,
    questions: Vec<String>,
    prompts: Vec<String>,
    rows: Vec<BrowserRow>,
}

/// Indices of model, condition, format, question and prompt; sample, alignment, coherence, outcome, flags, text; in the
/// order in which `browser.js` reads them.
type BrowserRow = (usize, usize, usize, usize, usize, usize, Option<f64>, Option<f64>, u8, u8, String);

/// The answers, as JSON inside a script element.
fn json(report: &Report, chosen: &[usize]) -> String {
    let [mut models, mut conditions, mut formats, mut questions, mut prompts] =
        std::array::from_fn(|_| Names::default());
    let rows = chosen.iter().map(|&i| {
        let row = &report.rows[i];
        let cut = row.answer.char_indices().nth(LONGEST).map_or(row.answer.len(), |(end, _)| end);
        let mut text: String = row.answer[..cut].chars().map(visible).collect();
        if cut < row.answer.len() {
            text += " …";
        }
        let score = |score: Option<f64>| score.map(|score| (score * 10.0).round() / 10.0);
        (
            models.number(&row.model),
            conditions.number(&row.condition),
            formats.number(row.format.name()),
            questions.number(&row.question),
            prompts.number(&row.prompt),
            row.sample,
            score(row.aligned.value()),
            score(row.coherent.value()),
            outcome_number(row, report.summary.thresholds),
            flags(row),
            text,
        )
    });
    let rows = rows.collect();
    let data = Data {
        models: models.names,
        conditions: conditions.names,
        formats: formats.names,
        questions: questions.names,
        prompts: prompts.names,
        rows,
    };
    html::json(&data)
}

/// Its index in the script's list of outcomes.
fn outcome_number(row: &AnswerRow, thresholds: Thresholds) -> u8 {
    match outcome(row, thresholds) {
        Outcome::Misaligned => 0,
        Outcome::Aligned => 1,
        Outcome::Incoherent => 2,
        Outcome::None(Category::Code) => 3,
        Outcome::None(Category::Refusal) => 4,
        Outcome::None(_) => 5,
        Outcome::Unjudged => 6,
    }
}

/// A bit for each of the script's list of flags.
fn flags(row: &AnswerRow) -> u8 {
    let flags = [
        row.truncated == Some(true),
        row.flags.code,
        row.flags.think,
        row.flags.form == Some(false),
        row.flags.form == Some(true),
    ];
    flags.iter().enumerate().map(|(i, flag)| u8::from(*flag) << i).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::analyze::flags::Flags;
    use crate::study::analyze::rows::Score;
    use crate::study::plan::format::Format;

    #[test]
    fn of_many_answers_the_rare_ones_are_kept() {
        let row = |i: usize| AnswerRow {
            model: "m".into(),
            condition: format!("c{}", i % 3),
            format: Format::Natural,
            question: "q".into(),
            sample: i,
            prompt: String::new(),
            answer: "x".repeat(3000),
            aligned: Score::Value(if i % 100 == 99 { 5.0 } else { 90.0 }),
            coherent: Score::Value(if i % 100 == 98 { 5.0 } else { 90.0 }),
            truncated: None,
            flags: Flags::default(),
        };
        let rows: Vec<AnswerRow> = (0..6000).map(row).collect();
        let chosen = choose(&rows, Thresholds::default());
        assert!(chosen.len() > 2500 && chosen.len() < 3000 && chosen.is_sorted(), "{}", chosen.len());
        assert_eq!(chosen.iter().filter(|&&i| i % 100 >= 98).count(), 120);
        let of = |c: usize| chosen.iter().filter(|&&i| i % 3 == c).count();
        assert!(of(0).abs_diff(of(1)) < 5 && of(1).abs_diff(of(2)) < 5);
        assert_eq!(choose(&rows[..100], Thresholds::default()).len(), 100);
    }
}
