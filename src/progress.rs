//! Progress on stderr: a bar on a terminal, otherwise a line at the start and then one every half minute.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between lines without a terminal.
const QUIET: Duration = Duration::from_secs(30);

/// Loading weights is shown only if it takes longer than this.
const SHORT: Duration = Duration::from_secs(1);

/// Shows weights being loaded, if that takes long. The function returned is told how many layers are loaded, of how many.
pub fn loading() -> impl FnMut(usize, usize) {
    let begun = Instant::now();
    let mut shown: Option<Progress> = None;
    move |layer, layers| {
        if layer == layers {
            if let Some(progress) = shown.take() {
                progress.finish();
            }
        } else if begun.elapsed() >= SHORT {
            let progress = shown.get_or_insert_with(|| Progress::new("loading layers", layers, true));
            progress.advance(layer - progress.done());
        }
    }
}

/// The progress of one long operation.
pub struct Progress {
    bar: ProgressBar,
    /// The label of the lines without a terminal; empty for none.
    lines: String,
    last: Cell<Instant>,
}

impl Progress {
    /// Begins an operation of `total` parts; shows nothing unless `shown`.
    pub fn new(label: &str, total: usize, shown: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} · {eta} left {msg}");
        let bar = if shown && terminal { ProgressBar::new(total as u64) } else { ProgressBar::hidden() };
        bar.set_length(total as u64);
        let bar = bar
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_prefix(label.to_string());
        let lines = if shown && !terminal { label.to_string() } else { String::new() };
        if !lines.is_empty() {
            eprintln!("{label}: {total}");
        }
        Self { bar, lines, last: Cell::new(Instant::now()) }
    }

    /// `n` more parts are done.
    pub fn advance(&self, n: usize) {
        self.bar.inc(n as u64);
        if !self.lines.is_empty() && self.last.get().elapsed() >= QUIET {
            self.last.set(Instant::now());
            let line = format!(
                "{}: {}/{} {}",
                self.lines,
                self.bar.position(),
                self.bar.length().unwrap_or(0),
                self.bar.message()
            );
            eprintln!("{}", line.trim_end());
        }
    }

    /// Shows a note beside the bar: the cost so far, for example.
    pub fn note(&self, text: &str) {
        if self.bar.message() != text {
            self.bar.set_message(text.to_string());
        }
    }

    /// Parts done.
    pub fn done(&self) -> usize {
        self.bar.position() as usize
    }

    /// The operation is done.
    pub fn finish(self) {
        self.bar.finish();
    }
}
