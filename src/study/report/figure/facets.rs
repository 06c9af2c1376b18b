//! Forest plots side by side: the same lines in each panel, on one axis, so that panels can be compared by eye.

use std::fmt::Write;

use super::draw::{WIDTH, axis, line, open, text, tip};
use crate::study::analyze::Rate;
use crate::study::report::text::percent;

/// A line shared by all panels.
pub(in crate::study::report) struct FacetLine {
    /// Heading shared with the following lines of the same block.
    pub(in crate::study::report) block: String,
    pub(in crate::study::report) label: String,
}

/// A panel: an estimate with the number of its colour for each line, where there is one.
pub(in crate::study::report) struct Facet {
    pub(in crate::study::report) title: String,
    pub(in crate::study::report) estimates: Vec<Option<(usize, Rate)>>,
}

/// Height of a line.
const ROW: f64 = 19.0;
/// Height of a panel's head.
const HEAD: f64 = 22.0;

/// Where the lines of a panel stand, from its upper edge.
struct Layout<'a> {
    /// Headings of blocks.
    headings: Vec<(f64, &'a String)>,
    /// The lines.
    at: Vec<f64>,
    /// Below the last line.
    end: f64,
}

/// Whether a line is alone in its block, which then needs no heading.
fn is_single(lines: &[FacetLine], i: usize) -> bool {
    lines.iter().filter(|line| line.block == lines[i].block).count() == 1
}

impl<'a> Layout<'a> {
    fn of(lines: &'a [FacetLine]) -> Self {
        let mut layout = Self { headings: Vec::new(), at: Vec::new(), end: HEAD };
        for (i, line) in lines.iter().enumerate() {
            let opens = i == 0 || lines[i - 1].block != line.block;
            if i > 0 && opens {
                layout.end += 6.0;
            }
            if !is_single(lines, i) && opens {
                layout.headings.push((layout.end + ROW / 2.0, &line.block));
                layout.end += ROW;
            }
            layout.at.push(layout.end + ROW / 2.0);
            layout.end += ROW;
        }
        layout
    }
}

/// Panels side by side, as many as fit; the rest below.
pub(in crate::study::report) fn facets(title: &str, lines: &[FacetLine], facets: &[Facet]) -> String {
    const GAP: f64 = 24.0;
    let name = |i: usize| if is_single(lines, i) { &lines[i].block } else { &lines[i].label };
    let Layout { headings, at, end: y } = Layout::of(lines);
    let (bottom, height) = (y + 2.0, y + 40.0);
    let longest = (0..lines.len()).map(|i| name(i).chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * 7.0 + 22.0).clamp(90.0, 220.0);
    let columns = facets.len().clamp(1, 3);
    let width = (WIDTH - left - 26.0 - GAP * (columns as f64 - 1.0)) / columns as f64;
    let estimates = || facets.iter().flat_map(|facet| &facet.estimates).flatten();
    let highest = estimates().filter(|(_, rate)| rate.n > 0).map(|(_, rate)| rate.high).fold(0.001, f64::max);
    let (step, end) = axis(highest, if columns == 1 { 6.0 } else { 3.0 });
    let ticks = (end / step).round() as usize;
    let bands = facets.len().div_ceil(columns);
    let mut svg = open(title, height * bands as f64);
    for (i, facet) in facets.iter().enumerate() {
        let (column, top) = (i % columns, (i / columns) as f64 * height);
        let x0 = left + column as f64 * (width + GAP);
        let x = |rate: f64| x0 + width * rate / end;
        text(&mut svg, "strong", "start", (x0, top + 13.0), &facet.title);
        for tick in 0..=ticks {
            let rate = tick as f64 * step;
            line(&mut svg, "grid", (x(rate), top + HEAD), (x(rate), top + bottom));
            // The outermost labels stay inside the panel, clear of its neighbours.
            let anchor = if tick == 0 {
                "start"
            } else if tick == ticks {
                "end"
            } else {
                "middle"
            };
            text(&mut svg, "quiet", anchor, (x(rate), top + bottom + 17.0), &percent(rate));
        }
        if column == 0 {
            for (y, heading) in &headings {
                text(&mut svg, "strong", "start", (0.0, top + y + 4.5), heading);
            }
            for (i, y) in at.iter().enumerate() {
                text(&mut svg, "", "end", (left - 12.0, top + y + 4.5), name(i));
            }
        }
        for (i, estimate) in facet.estimates.iter().enumerate() {
            let Some((colour, rate)) = estimate else { continue };
            let Some(share) = rate.rate else { continue };
            let y = top + at[i];
            let _ = write!(svg, "<g class=\"c{}\">", colour % 6);
            let line_name = &lines[i];
            tip(&mut svg, &format!("{} · {} · {}", facet.title, line_name.block, line_name.label), *rate);
            line(&mut svg, "bar", (x(rate.low), y), (x(rate.high), y));
            let _ = write!(svg, "<circle class=\"mark\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\"/></g>", x(share));
        }
    }
    svg + "</svg>"
}
