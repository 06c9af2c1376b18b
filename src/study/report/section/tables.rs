//! The report's tables.

use std::fmt::Write;

use crate::study::analyze::{Counts, Group, Summary};
use crate::study::csv::Field;
use crate::study::plan::format::Format;
use crate::study::report::parts::{Csv, rate, table};
use crate::study::report::text::{escape, percent};

/// What became of the answers, by condition and format.
pub(in crate::study::report) fn counts(html: &mut String, summary: &Summary) {
    html.push_str("<h2>What became of the answers</h2>\n");
    count_table(html, &summary.by_condition_format, false);
    html.push_str(
        "<p class=\"quiet\">“None” has no score of alignment: the judge said CODE, REFUSAL, or something else. \
         “Incoherent” has one, but no score of coherence at or above the threshold. “Of all” counts misaligned \
         answers among all that are judged.</p>\n",
    );
}

/// The same for every cell.
pub(in crate::study::report) fn cells(html: &mut String, summary: &Summary) {
    if summary.cells.len() > summary.by_condition_format.len() {
        html.push_str("<details><summary>Every cell: model, condition, format</summary>\n");
        count_table(html, &summary.cells, true);
        let _ = writeln!(html, "<p class=\"quiet\">{}</p></details>", groups("cells", &summary.cells).link());
    }
}

fn count_table(html: &mut String, groups: &[Group], models: bool) {
    let mut heads = vec!["condition", "format"];
    if models {
        heads.insert(0, "model");
    }
    let texts = heads.len();
    heads.extend([
        "n",
        "code",
        "refusal",
        "none, other",
        "incoherent",
        "kept",
        "misaligned",
        "rate",
        "interval",
        "of all",
    ]);
    if groups.iter().any(|group| group.counts.unjudged > 0) {
        heads.push("not judged");
    }
    let unjudged = heads.last() == Some(&"not judged");
    let rows = groups.iter().map(|group| {
        let Counts { n, none, none_code, none_refusal, incoherent, kept, misaligned, .. } = group.counts;
        let mut cells = labels(group, models);
        let other = none - none_code - none_refusal;
        cells.extend(
            [n, none_code, none_refusal, other, incoherent, kept, misaligned].map(|count| count.to_string()),
        );
        let rate = group.misaligned_of_kept;
        cells.push(rate.rate.map_or("–".into(), percent));
        cells.push(format!("{} – {}", percent(rate.low), percent(rate.high)));
        cells.push(group.misaligned_of_all.rate.map_or("–".into(), percent));
        if unjudged {
            cells.push(group.counts.unjudged.to_string());
        }
        cells
    });
    table(html, "", &heads, texts, rows);
}

/// How far answers have the form asked for.
pub(in crate::study::report) fn formats(html: &mut String, summary: &Summary) {
    html.push_str("<h2>Form</h2>\n");
    let heads = [
        "condition",
        "format",
        "n",
        "valid JSON",
        "form, a code fence aside",
        "truncated",
        "think token",
        "code",
    ];
    let rows = summary.by_condition_format.iter().map(|group| {
        let counts = &group.counts;
        let share = |k: usize, n: usize| if n == 0 { "–".into() } else { percent(k as f64 / n as f64) };
        let mut cells = labels(group, false);
        cells.extend([
            counts.n.to_string(),
            share(counts.json_valid, counts.json_asked),
            share(counts.form_kept, counts.form_wanted),
            counts.truncated.map_or("–".into(), |truncated| share(truncated, counts.n)),
            share(counts.think, counts.n),
            share(counts.code, counts.n),
        ]);
        cells
    });
    table(html, "Shares of answers", &heads, 2, rows);
}

/// How alignment and coherence go together.
pub(in crate::study::report) fn correlations(html: &mut String, summary: &Summary) {
    let rows = summary.correlations.iter().map(|correlation| {
        let r = |r: Option<f64>| r.map_or("–".into(), |r| format!("{r:.3}"));
        let interval = |ends: Option<(f64, f64)>| {
            ends.map_or("–".into(), |(low, high)| format!("{low:.3} to {high:.3}"))
        };
        vec![
            correlation.condition.as_deref().map_or("<em>all</em>".into(), escape),
            correlation.n.to_string(),
            r(correlation.pearson),
            interval(correlation.pearson_interval),
            r(correlation.spearman),
            interval(correlation.spearman_interval),
        ]
    });
    let caption = "Correlation of alignment with coherence, over the answers that have both scores";
    table(html, caption, &["condition", "n", "Pearson r", "interval", "Spearman r", "interval"], 1, rows);
}

/// The cells that name a group, escaped.
fn labels(group: &Group, models: bool) -> Vec<String> {
    let label = &group.label;
    let format = label.format.map_or("", Format::name);
    let model = models.then(|| label.model.as_deref().unwrap_or_default());
    model.into_iter().chain([label.condition.as_deref().unwrap_or_default(), format]).map(escape).collect()
}

/// The columns of [`groups`].
const GROUP_COLUMNS: [&str; 23] = [
    "model",
    "condition",
    "format",
    "question",
    "n",
    "not_judged",
    "none",
    "none_code",
    "none_refusal",
    "incoherent",
    "kept",
    "misaligned",
    "rate",
    "low",
    "high",
    "rate_of_all",
    "truncated",
    "json_asked",
    "json_valid",
    "form_wanted",
    "form_kept",
    "think",
    "code",
];

/// Everything that is counted of groups of answers.
pub(in crate::study::report) fn groups(name: &'static str, groups: &[Group]) -> Csv {
    let row = |group: &Group| {
        let (label, counts, kept) = (&group.label, &group.counts, group.misaligned_of_kept);
        let names = [
            label.model.as_deref(),
            label.condition.as_deref(),
            label.format.map(Format::name),
            label.question.as_deref(),
        ];
        let mut row: Vec<Field> = names.map(Field::from).into();
        row.extend(
            [
                counts.n,
                counts.unjudged,
                counts.none,
                counts.none_code,
                counts.none_refusal,
                counts.incoherent,
                counts.kept,
                counts.misaligned,
            ]
            .map(Field::from),
        );
        row.extend(rate(kept));
        row.push(group.misaligned_of_all.rate.into());
        row.push(counts.truncated.into());
        row.extend(
            [
                counts.json_asked,
                counts.json_valid,
                counts.form_wanted,
                counts.form_kept,
                counts.think,
                counts.code,
            ]
            .map(Field::from),
        );
        row
    };
    Csv::new(name, &GROUP_COLUMNS, groups.iter().map(row))
}
