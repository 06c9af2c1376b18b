//! Rates against the dose of a direction.

use std::fmt::Write;

use super::draw::{WIDTH, line, open, text, tip};
use crate::study::analyze::{Dose, DoseResponse};
use crate::study::report::text::percent;

/// Misaligned answers, and those that count, with their intervals.
pub(in crate::study::report) fn doses(title: &str, response: &DoseResponse) -> String {
    const LEFT: f64 = 62.0;
    const RIGHT: f64 = WIDTH - 24.0;
    const TOP: f64 = 34.0;
    const BOTTOM: f64 = 300.0;
    /// Half of the offset between the two rates of a dose, so that their intervals do not overlap.
    const ASIDE: f64 = 4.0;
    let ends = || response.doses.iter().map(|dose| dose.dose);
    let (least, most) = (ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max));
    let margin = 0.06 * (most - least).max(f64::MIN_POSITIVE);
    let x = |dose: f64| LEFT + (RIGHT - LEFT) * (dose - least + margin) / (most - least + 2.0 * margin);
    let y = |rate: f64| BOTTOM - (BOTTOM - TOP) * rate;
    let mut svg = open(title, BOTTOM + 44.0);
    for tick in 0..=5 {
        let rate = f64::from(tick) / 5.0;
        line(&mut svg, "grid", (LEFT, y(rate)), (RIGHT, y(rate)));
        text(&mut svg, "quiet", "end", (LEFT - 8.0, y(rate) + 4.5), &percent(rate));
    }
    for Dose { dose, .. } in &response.doses {
        text(&mut svg, "quiet", "middle", (x(*dose), BOTTOM + 18.0), &dose.to_string());
    }
    text(&mut svg, "quiet", "middle", (f64::midpoint(LEFT, RIGHT), BOTTOM + 38.0), "dose");
    let rates = [(false, "misaligned among answers that count", 1), (true, "answers that count", 0)];
    let mut legend = LEFT;
    for (counts, name, colour) in rates {
        let rate = |dose: &Dose| if counts { dose.kept_of_judged } else { dose.misaligned_of_kept };
        let shift = if counts { ASIDE } else { -ASIDE };
        let _ = write!(svg, "<g class=\"c{colour}\">");
        let _ = write!(svg, "<circle class=\"mark\" cx=\"{:.1}\" cy=\"12\" r=\"5\"/>", legend + 5.0);
        text(&mut svg, "", "start", (legend + 16.0, 16.5), name);
        legend += name.chars().count() as f64 * 7.4 + 44.0;
        let known = || response.doses.iter().filter_map(|dose| Some((dose, rate(dose), rate(dose).rate?)));
        let points = known().map(|(dose, _, share)| format!("{:.1},{:.1}", x(dose.dose) + shift, y(share)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = write!(svg, "<polyline class=\"trend\" points=\"{points}\"/>");
        for (dose, rate, share) in known() {
            let at = x(dose.dose) + shift;
            svg.push_str("<g>");
            tip(&mut svg, &format!("{} · {name}", dose.condition), rate);
            line(&mut svg, "bar", (at, y(rate.low)), (at, y(rate.high)));
            let _ =
                write!(svg, "<circle class=\"mark\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4.5\"/></g>", y(share));
        }
        svg.push_str("</g>");
    }
    svg + "</svg>"
}
