//! Dose–response: how often answers are misaligned, and how many count, by the dose of a direction.

use std::fmt::Write;

use crate::study::analyze::{Dose, DoseResponse, Rate};
use crate::study::report::figure::doses;
use crate::study::report::input::Report;
use crate::study::report::parts::{Csv, figure, rate, table};
use crate::study::report::text::{escape, p_value, percent};

/// The section; nothing if no conditions differ in the dose of a direction.
pub(in crate::study::report) fn section(html: &mut String, report: &Report) {
    let responses = &report.summary.doses;
    if responses.is_empty() {
        return;
    }
    html.push_str(
        "<h2>Dose–response</h2>\n<p>While it answered, a direction was added to the model’s residual stream, as many times as \
         the dose says: 1 is the whole difference of the means of the two sets that the direction tells apart.</p>\n",
    );
    for response in responses {
        let title = title(response);
        let caption = format!(
            "{}. Answers that count are coherent: where few do, the rate of misaligned ones says little.",
            escape(&title)
        );
        figure(html, &doses(&title, response), &caption, &numbers(responses));
        let interval = |rate: Rate| format!("{} – {}", percent(rate.low), percent(rate.high));
        let share = |rate: Rate| rate.rate.map_or("–".into(), percent);
        let row = |Dose { dose, condition, misaligned_of_kept, kept_of_judged }: &Dose| {
            vec![
                escape(condition),
                dose.to_string(),
                misaligned_of_kept.n.to_string(),
                share(*kept_of_judged),
                interval(*kept_of_judged),
                misaligned_of_kept.k.to_string(),
                share(*misaligned_of_kept),
                interval(*misaligned_of_kept),
            ]
        };
        let heads = ["condition", "dose", "kept", "of all", "interval", "misaligned", "of kept", "interval"];
        table(html, "", &heads, 1, response.doses.iter().map(row));
        if let Some(test) = response.cochran_armitage {
            let _ = writeln!(
                html,
                "<p class=\"quiet\">Trend of misaligned over the dose (Cochran–Armitage, answers taken as independent): z = \
                 {:.2}, p = {}.</p>",
                test.statistic,
                escape(&p_value(test.p))
            );
        }
    }
}

/// What is steered, and along what.
pub(in crate::study::report) fn title(response: &DoseResponse) -> String {
    let of = response.of.as_ref().map_or("the model as it is".into(), |of| format!("condition {of}"));
    format!("{} added to {of}", response.direction)
}

/// The points of the dose–response figures.
pub(in crate::study::report) fn numbers(responses: &[DoseResponse]) -> Csv {
    let rows = responses.iter().flat_map(|response| {
        response.doses.iter().map(|dose| {
            let mut row = vec![response.direction.as_str().into(), response.of.as_deref().into()];
            row.extend([dose.condition.as_str().into(), dose.dose.into()]);
            let (misaligned, kept) = (dose.misaligned_of_kept, dose.kept_of_judged);
            row.extend([kept.n.into(), kept.k.into(), misaligned.k.into()]);
            row.extend(rate(misaligned).into_iter().chain(rate(kept)));
            row
        })
    });
    let heads = [
        "direction",
        "of",
        "condition",
        "dose",
        "judged",
        "kept",
        "misaligned",
        "rate",
        "low",
        "high",
        "kept_rate",
        "kept_low",
        "kept_high",
    ];
    Csv::new("doses", &heads, rows)
}
