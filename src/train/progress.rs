//! Events of a run, and their display on the terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::memory::MemoryPlan;

/// An event of a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Before the first step, on a GPU only: how the run uses its memory.
    Memory(&'a MemoryPlan),
    /// An optimiser step was made.
    Step(&'a Status),
}

/// The state of a run after an optimiser step.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Optimiser steps made.
    pub step: usize,
    /// Optimiser steps of the whole run.
    pub steps: usize,
    /// The step's loss, before the update.
    pub loss: f64,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Tokens that went through the model since this process began.
    pub tokens: usize,
    /// Time since this process began to train.
    pub elapsed: Duration,
}

impl Status {
    /// Tokens through the model a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Shows a run on stderr: a bar on a terminal, otherwise a line every half minute and one at the end.
pub fn show() -> impl FnMut(Event) {
    const QUIET: Duration = Duration::from_secs(30);
    let style = ProgressStyle::with_template("{bar:24} step {pos}/{len} · {msg} · {eta} left");
    let bar = ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let terminal = std::io::stderr().is_terminal();
    let mut last = Instant::now();
    let mut begun = false;
    move |event| {
        let status = match event {
            Event::Memory(plan) => return eprintln!("{plan}"),
            Event::Step(status) => status,
        };
        let Status { step, steps, loss, learning_rate, .. } = *status;
        let text =
            format!("loss {loss:.4} · lr {learning_rate:.2e} · {:.0} tokens/s", status.tokens_per_second());
        if terminal {
            if !begun {
                // The steps before a resume took no time in this process; the estimate must not count them.
                bar.set_length(steps as u64);
                bar.set_position(step as u64);
                bar.reset_eta();
                begun = true;
            }
            bar.set_message(text);
            bar.set_position(step as u64);
            if step == steps {
                bar.finish();
            }
        } else if step == steps || last.elapsed() >= QUIET {
            last = Instant::now();
            eprintln!("step {step}/{steps} · {text}");
        }
    }
}
