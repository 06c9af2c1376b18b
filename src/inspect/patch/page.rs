//! The maps of patching as one page, which needs no network and no script.

use std::fmt::Write;

use super::metric::Metric;
use super::patching::{Columns, Map, Patched};
use crate::error::Result;
use crate::html::{escape, head, visible};
use crate::model::tokenizer::Tokenizer;

const STYLE: &str = include_str!("page.css");

/// Width and height of a cell, in pixels.
const CELL: [usize; 2] = [22, 18];
/// Left of the cells: the layers' numbers.
const LEFT: usize = 40;
/// Gap between the cells and the column of all of them together.
const GAP: usize = 12;
/// Most characters of a token in a column's name.
const NAME: usize = 14;
/// Below the cells: the columns' names, upright.
const BOTTOM: usize = 110;

impl Patched {
    /// The metric as a formula.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the tokenizer does not know a token.
    pub fn measured(&self, tokenizer: &Tokenizer) -> Result<String> {
        let word = |token: u32| tokenizer.decode(&[token], false);
        Ok(match &self.metric {
            Metric::Logits { yes, no } => format!("logit({:?}) − logit({:?})", word(*yes)?, word(*no)?),
            Metric::Answer(answer) => format!("ln p({:?})", tokenizer.decode(answer, false)?),
        })
    }

    /// The page, whose title names `model`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the tokenizer does not know a token.
    pub fn page(&self, tokenizer: &Tokenizer, model: &str) -> Result<String> {
        let title = format!("Patching {model}");
        let mut page = head(&title, STYLE, "");
        let _ = writeln!(page, "<h1>{}</h1>", escape(&title));
        let measured = escape(&self.measured(tokenizer)?);
        let _ = writeln!(page, "<p class=\"formula\">m = {measured}</p>\n<dl>");
        for (name, tokens, value) in
            [("source", &self.source_tokens, self.source), ("target", &self.target_tokens, self.target)]
        {
            let text = escape(&tokenizer.decode(tokens, false)?);
            let _ = writeln!(page, "<dt>{name}, m = {value:.3}</dt><dd>{text}</dd>");
        }
        page.push_str(EXPLANATION);
        let word = |[_, at]: &[usize; 2]| tokenizer.decode(&[self.target_tokens[*at]], false);
        let positions = self.pairs.iter().map(word).collect::<Result<Vec<_>>>()?;
        for map in &self.maps {
            let (columns, what) = match map.columns {
                Columns::Positions => (positions.clone(), "by position of the target"),
                Columns::Heads => {
                    let heads = map.effects.first().map_or(0, Vec::len);
                    (
                        (0..heads).map(|head| format!("head {head}")).collect(),
                        "by head, at all positions in common",
                    )
                }
            };
            let _ = writeln!(page, "<figure><figcaption><b>{}</b> {what}</figcaption>", map.site);
            heat_map(&mut page, map, &columns);
            page.push_str("</figure>\n");
        }
        page.push_str("</body>\n</html>\n");
        Ok(page)
    }
}

const EXPLANATION: &str = "</dl>\n\
    <p>Rows are layers. Every cell is a run of the target into which one activation of the source's run was put. Its colour is how far \
    m then goes the source's way: (m of the patched run − m of the target) / (m of the source − m of the target).</p>\n\
    <p class=\"legend\"><span>−1, the other way</span><span class=\"ramp\"></span><span>1, all the way</span></p>\n";

/// One map: a row a layer, a column a position or a head, and one for all of them together.
fn heat_map(page: &mut String, map: &Map, columns: &[String]) {
    let [width, height] = CELL;
    let together = LEFT + columns.len() * width + GAP;
    let (right, bottom) = (together + width, map.effects.len() * height);
    let _ = writeln!(
        page,
        "<div class=\"scroll\"><svg width=\"{}\" height=\"{}\" role=\"img\" aria-label=\"{} by layer\">\n\
         <rect class=\"ground\" x=\"{LEFT}\" width=\"{}\" height=\"{bottom}\"/>\
         <rect class=\"ground\" x=\"{together}\" width=\"{width}\" height=\"{bottom}\"/>",
        right + BOTTOM,
        bottom + BOTTOM,
        map.site,
        columns.len() * width,
    );
    let names: Vec<String> = columns.iter().map(|name| escape(&format!("{name:?}"))).collect();
    for (layer, (effects, all)) in map.effects.iter().zip(&map.together).enumerate() {
        let y = layer * height;
        let _ = write!(
            page,
            "<text class=\"quiet\" text-anchor=\"end\" x=\"{}\" y=\"{}\">{layer}</text>",
            LEFT - 6,
            y + 13
        );
        let mut cell = |x: usize, name: &str, effect: f64| {
            let class = if effect < 0.0 { "away" } else { "toward" };
            let _ = write!(
                page,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" \
                 fill-opacity=\"{:.2}\"><title>layer {layer}, {name}: {effect:.3}</title></rect>",
                effect.abs().min(1.0)
            );
        };
        for (column, (effect, name)) in effects.iter().zip(&names).enumerate() {
            cell(LEFT + column * width, name, *effect);
        }
        cell(together, "all together", *all);
        page.push('\n');
    }
    let shown = columns.iter().map(|name| {
        let cut: String = name.chars().take(NAME).map(visible).collect();
        let cut = cut.replace('\n', "⏎").replace('\t', "⇥").replace(' ', "␣");
        if name.chars().count() > NAME { cut + "…" } else { cut }
    });
    let places = (0..columns.len()).map(|column| LEFT + column * width).chain([together]);
    for (x, name) in places.zip(shown.chain(["all together".to_owned()])) {
        let _ = write!(
            page,
            "<text transform=\"translate({} {}) rotate(60)\">{}</text>",
            x + 7,
            bottom + 12,
            escape(&name)
        );
    }
    page.push_str("</svg></div>\n");
}
