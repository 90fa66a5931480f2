//! How far a command is: a bar on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

const REDRAW: Duration = Duration::from_millis(100);

/// Draws on stderr. Cheap to ask often: it draws at most ten times a second.
#[derive(Debug)]
pub(crate) struct Progress {
    is_quiet: bool,
}

impl Progress {
    /// `is_quiet`: draws nothing, wherever stderr goes.
    pub(crate) const fn new(is_quiet: bool) -> Self {
        Self { is_quiet }
    }

    /// A line for work whose end is a time, not a number.
    pub(crate) fn line(&self) -> Line {
        let target = self.target();
        let bar = ProgressBar::with_draw_target(None, target);
        bar.enable_steady_tick(REDRAW);
        Line { bar }
    }

    /// A bar for one step of the command, towards `total` of its `unit` (`events`, `bytes`, …).
    pub(crate) fn step(&self, what: &'static str, unit: &'static str, total: u64) -> Step {
        let bar = ProgressBar::with_draw_target(Some(total), self.target())
            .with_style(style(unit))
            .with_message(what);
        bar.enable_steady_tick(REDRAW);
        Step { bar }
    }

    fn target(&self) -> ProgressDrawTarget {
        // Why not a terminal's question here: indicatif asks, and hides the bar elsewhere.
        if self.is_quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(10)
        }
    }
}

/// A line that says what is going on; its drop takes it away.
#[derive(Debug)]
pub(crate) struct Line {
    bar: ProgressBar,
}

impl Line {
    /// From now on it says this.
    pub(crate) fn say(&self, what: String) {
        self.bar.set_message(what);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(unit: &str) -> ProgressStyle {
    let count = match unit {
        "bytes" => "{bytes}/{total_bytes} {bytes_per_sec}".to_owned(),
        unit => format!("{{human_pos}}/{{human_len}} {unit} {{per_sec:.0}}"),
    };
    ProgressStyle::with_template(&format!("{{msg:<20}} {{wide_bar}} {count} {{eta}} "))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One step under way; its drop takes the bar away.
#[derive(Debug)]
pub(crate) struct Step {
    bar: ProgressBar,
}

impl Step {
    /// How far it is.
    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
