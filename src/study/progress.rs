//! How far a step is, on stderr: a bar on a terminal, elsewhere a line when it begins and every half minute.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(30);

/// One step's progress.
pub(super) struct Progress {
    bar: ProgressBar,
    /// What to write on lines; empty for none.
    lines: String,
    last: Cell<Instant>,
}

impl Progress {
    /// Begins a step of `total` parts.
    pub(super) fn new(label: &str, total: usize, shown: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} · {eta} left");
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
    pub(super) fn advance(&self, n: usize) {
        self.bar.inc(n as u64);
        if !self.lines.is_empty() && self.last.get().elapsed() >= QUIET {
            self.last.set(Instant::now());
            eprintln!("{}: {}/{}", self.lines, self.bar.position(), self.bar.length().unwrap_or(0));
        }
    }

    /// The step is done.
    pub(super) fn finish(self) {
        self.bar.finish();
    }
}
