//! The page, put together and written.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::{attention, source};
use crate::device::file;
use crate::error::Result;
use crate::html;
use crate::inspect::trace::tracing::Trace;

const STYLE: &str = include_str!("style.css");
const BODY: &str = include_str!("body.html");
const SCRIPT: &str = concat!(
    include_str!("base.js"),
    include_str!("plot.js"),
    include_str!("tokens.js"),
    include_str!("attention.js"),
    include_str!("streams.js"),
    include_str!("lens.js"),
    include_str!("ops.js"),
    include_str!("source.js"),
    include_str!("main.js"),
);

impl Trace {
    /// Writes `index.html` into `dir`. `json` is this trace's [`json`](Self::json): of its `about` the page shows `model`,
    /// `adapter`, `family`, `device` and `precision`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be written.
    pub fn write_page(&self, dir: &Path, json: &Value) -> Result<()> {
        file::make_folder(dir)?;
        let html = self.page(json);
        file::replace(&dir.join("index.html"), |out| out.write_all(html.as_bytes()))
    }

    /// The page around `trace`, the [`json`](Self::json) of this trace.
    fn page(&self, trace: &Value) -> String {
        let title = format!("Trace of {}", trace["about"]["model"].as_str().unwrap_or("a model"));
        let mut page = html::head(&title, STYLE, SCRIPT) + BODY;
        let mut data = |id: &str, json: String| {
            let _ = writeln!(page, "<script type=\"application/json\" id=\"{id}\">{json}</script>");
        };
        data("trace", html::json(trace));
        data("sources", html::json(&source::sources()));
        let packed = attention::pack(self, attention::BUDGET);
        data("levels", html::json(&packed.as_ref().map(|packed| packed.levels)));
        for (layer, weights) in packed.iter().flat_map(|packed| packed.layers.iter().enumerate()) {
            data(&format!("attention-{layer}"), format!("\"{weights}\""));
        }
        let _ = writeln!(page, "<script>{SCRIPT}</script>\n</body>\n</html>");
        page
    }
}
