//! The report as a page: its sections, in their order.

use std::fmt::Write;

use super::input::Report;
use super::parts::Csv;
use super::section::{
    agreement, answers, browser, doses, inference, methods, published, rates, scaling, scores, tables,
};
use super::text::{escape, percent};
use crate::study::analyze::Summary;
use crate::{Result, html};

const STYLE: &str = include_str!("style.css");

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
        rates::section(&mut html, self);
        scaling::section(&mut html, self);
        doses::section(&mut html, self);
        inference::section(&mut html, self.summary);
        scores::section(&mut html, self);
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

    /// The numbers behind every figure and table, each a file.
    pub fn numbers(&self) -> Vec<Csv> {
        let summary = self.summary;
        let mut numbers = vec![
            published::numbers(&published::figures(summary)),
            tables::groups("rates", &summary.by_condition_format),
            tables::groups("models", &summary.by_model_condition),
            tables::groups("cells", &summary.cells),
            tables::groups("questions", &summary.by_condition_question),
            scaling::numbers(&scaling::series(self)),
            scores::numbers(&scores::panels(self)),
            inference::numbers(summary),
        ];
        if !summary.doses.is_empty() {
            numbers.push(doses::numbers(&summary.doses));
        }
        if !self.pairs.is_empty() {
            numbers.extend([agreement::numbers(summary), agreement::differences(&agreement::raters(self))]);
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::analyze::flags::Flags;
    use crate::study::analyze::rows::{AnswerRow, Score, levels};
    use crate::study::analyze::summarise;
    use crate::study::plan::Thresholds;
    use crate::study::plan::format::Format;

    const EVIL: &str = "</pre><script>alert(1)</script><img src=x onerror='alert(2)'>";

    #[test]
    fn what_models_and_files_say_is_text() {
        let row = AnswerRow {
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
        let other = AnswerRow { model: "gemma-3-1b-it".into(), condition: "base".into(), ..row.clone() };
        let third = AnswerRow { model: "qwen3-8b".into(), aligned: Score::Value(90.0), ..row.clone() };
        let rows = [row, other, third];
        let summary = summarise(&rows, Thresholds::default(), &levels(&rows).families());
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
