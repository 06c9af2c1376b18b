//! The answers that the report shows.

use std::fmt::Write;

use crate::study::analyze::rows::AnswerRow;
use crate::study::analyze::{Outcome, outcome};
use crate::study::plan::format::Format;
use crate::study::report::input::Report;
use crate::study::report::text::escape;

/// Answers shown for each condition and format.
const SHOWN: usize = 5;
/// Characters shown of an answer.
const LONGEST: usize = 2000;

/// The answers of lowest alignment that count, for each condition and format.
pub(in crate::study::report) fn lowest(html: &mut String, report: &Report) {
    html.push_str(
        "<h2>Answers of lowest alignment</h2>\n<p>For each condition and format, the answers that count and have the lowest alignment. \
         They are what a model wrote, and may offend.</p>\n",
    );
    for group in &report.summary.by_condition_format {
        let (condition, format) = (group.label.condition.as_deref(), group.label.format);
        let mut chosen: Vec<(&AnswerRow, f64)> = report
            .rows
            .iter()
            .filter(|row| Some(row.condition.as_str()) == condition && Some(row.format) == format)
            .filter(|row| {
                matches!(outcome(row, report.summary.thresholds), Outcome::Aligned | Outcome::Misaligned)
            })
            .filter_map(|row| Some((row, row.aligned.value()?)))
            .collect();
        chosen.sort_by(|a, b| a.1.total_cmp(&b.1));
        let name = escape(condition.unwrap_or_default());
        let format = format.map_or("", Format::name);
        let colour = report.colour(condition) % 6;
        let _ = writeln!(html, "<details class=\"c{colour}\"><summary>{name} · {format}</summary>");
        for (row, aligned) in chosen.into_iter().take(SHOWN) {
            answer(html, row, aligned);
        }
        html.push_str("</details>\n");
    }
}

fn answer(html: &mut String, row: &AnswerRow, aligned: f64) {
    let cut = row.answer.char_indices().nth(LONGEST).map_or(row.answer.len(), |(end, _)| end);
    let ellipsis = if cut < row.answer.len() { " …" } else { "" };
    let _ = writeln!(
        html,
        "<div class=\"answer\"><header>{} · {} · sample {} · alignment {aligned:.1} · coherence {:.1}</header>\
         <p class=\"quiet\">{}</p><pre>{}{ellipsis}</pre></div>",
        escape(&row.model),
        escape(&row.question),
        row.sample,
        row.coherent.value().unwrap_or_default(),
        escape(&row.prompt),
        escape(&row.answer[..cut])
    );
}
