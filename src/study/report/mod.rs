//! `report.html`: one file that needs no network, in a light and a dark theme, with the figures as SVG.

mod agreement;
mod answers;
mod browser;
mod csv;
mod doses;
mod figure;
mod inference;
mod methods;
mod numbers;
mod plain;
mod published;
mod rates;
mod tables;
mod text;

use std::fmt::Write;

pub use self::csv::Csv;
pub(in crate::study) use self::csv::{Cell, line};
pub use self::plain::{plain, plain_cells, plain_tests};
use self::text::{escape, percent};
use super::analyze::Summary;
use super::pairs::Pairs;
use super::plan::Plan;
use super::table::Row;
use crate::{Result, html};

const STYLE: &str = include_str!("style.css");

/// What a report is made of.
pub struct Report<'a> {
    /// Its heading.
    pub title: &'a str,
    /// A remark that stands above everything else: that this is a toy, say. Empty for none.
    pub notice: &'a str,
    /// The counts.
    pub summary: &'a Summary,
    /// The rows that were counted.
    pub rows: &'a [Row],
    /// The scores of the raters, two at a time, in the order of the summary's agreement.
    pub pairs: &'a [Pairs],
    /// How the answers were made and judged: a name and a value a line.
    pub method: &'a [(String, String)],
    /// The plan; none for tables from elsewhere.
    pub plan: Option<&'a Plan>,
}

impl Report<'_> {
    /// The whole file.
    ///
    /// # Errors
    /// `Error::Setting` if the plan has no TOML form.
    pub fn html(&self) -> Result<String> {
        let mut html = html::head(self.title, STYLE, browser::SCRIPT);
        let _ = writeln!(html, "<h1>{}</h1>", escape(self.title));
        self.headline(&mut html);
        published::section(&mut html, self.summary);
        self.rates(&mut html);
        self.scaling(&mut html);
        doses::section(&mut html, self);
        inference::section(&mut html, self.summary);
        self.scores(&mut html);
        agreement::section(&mut html, self);
        tables::counts(&mut html, self.summary);
        tables::formats(&mut html, self.summary);
        tables::cells(&mut html, self.summary);
        answers::lowest(&mut html, self);
        browser::section(&mut html, self);
        methods::section(&mut html, self)?;
        html.push_str("</body>\n</html>\n");
        Ok(html)
    }

    /// Number of a condition's colour: its place among the conditions.
    fn colour(&self, condition: Option<&str>) -> usize {
        let conditions = &self.summary.by_condition;
        conditions.iter().position(|group| group.label.condition.as_deref() == condition).unwrap_or(0)
    }

    fn headline(&self, html: &mut String) {
        let Summary { thresholds, total, .. } = self.summary;
        let counts = &total.counts;
        let _ = writeln!(
            html,
            "<p>{} answers, of which {} count: judged, with a score of alignment, and coherent (at least {}). \
             Misaligned are those of them whose alignment is below {}. \
             Intervals are Wilson’s, at {} confidence.</p>",
            counts.n,
            counts.kept,
            thresholds.coherent_at_least,
            thresholds.misaligned_below,
            percent(thresholds.level)
        );
        if counts.unjudged > 0 {
            let _ = writeln!(html, "<p class=\"notice\">{} answers are not judged yet.</p>", counts.unjudged);
        }
        if !self.notice.is_empty() {
            let _ = writeln!(html, "<p class=\"notice\">{}</p>", escape(self.notice));
        }
        html.push_str("<div class=\"cards\">\n");
        for group in &self.summary.by_condition {
            let rate = group.misaligned_of_kept;
            let _ = writeln!(
                html,
                "<div class=\"card c{}\"><span class=\"name\">{}</span><b>{}</b>\
                 <span>misaligned: {} of {}</span><span>interval {} to {}</span></div>",
                self.colour(group.label.condition.as_deref()) % 6,
                escape(group.label.condition.as_deref().unwrap_or_default()),
                rate.rate.map_or("–".into(), percent),
                rate.k,
                rate.n,
                percent(rate.low),
                percent(rate.high)
            );
        }
        html.push_str("</div>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::analyze::summarise;
    use crate::study::family::Levels;
    use crate::study::flags::Flags;
    use crate::study::format::Format;
    use crate::study::plan::Thresholds;
    use crate::study::table::Score;

    const EVIL: &str = "</pre><script>alert(1)</script><img src=x onerror='alert(2)'>";

    #[test]
    fn what_models_and_files_say_is_text() {
        let row = Row {
            model: EVIL.into(),
            condition: EVIL.into(),
            format: Format::Natural,
            question: EVIL.into(),
            sample: 0,
            prompt: EVIL.into(),
            answer: EVIL.into(),
            aligned: Score::Value(1.0),
            coherent: Score::Value(99.0),
            truncated: None,
            flags: Flags::default(),
        };
        let other = Row { model: "gemma-3-1b-it".into(), condition: "base".into(), ..row.clone() };
        let third = Row { model: "qwen3-8b".into(), aligned: Score::Value(90.0), ..row.clone() };
        let rows = [row, other, third];
        let summary = summarise(&rows, Thresholds::default(), &Levels::of(&rows).families());
        let method = [(EVIL.to_string(), EVIL.to_string())];
        let report = Report {
            title: EVIL,
            notice: EVIL,
            summary: &summary,
            rows: &rows,
            pairs: &[],
            method: &method,
            plan: None,
        };
        let html = report.html().unwrap();
        assert_eq!(html.matches("<script").count(), 2, "the data and the script");
        assert_eq!(html.matches("</script").count(), 2);
        assert!(!html.contains("<img"));
        assert!(html.matches("&lt;script&gt;").count() >= 20);
        assert!(!html.contains("http://") && !html.contains("https://"), "needs no network");
    }

    #[test]
    fn an_empty_study_has_a_report() {
        let summary = summarise(&[], Thresholds::default(), &[]);
        let report = Report {
            title: "t",
            notice: "",
            summary: &summary,
            rows: &[],
            pairs: &[],
            method: &[],
            plan: None,
        };
        assert!(report.html().unwrap().contains("0 answers"));
    }
}
