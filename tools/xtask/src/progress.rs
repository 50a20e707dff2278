//! Which step runs, and how long it took: a spinner on a terminal, plain lines in a log.

use crate::error::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Steps quicker than this are not worth a line.
const QUIET_BELOW: Duration = Duration::from_millis(300);

/// Runs one step under a label; the step prints nothing itself.
pub(crate) fn step<T>(label: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let spinner = spinner(label);
    let result = work();
    if let Some(bar) = spinner {
        bar.finish_and_clear();
    }
    let took = started.elapsed();
    if result.is_err() || took >= QUIET_BELOW {
        let mark = if result.is_ok() { "done" } else { "FAILED" };
        eprintln!("{mark:>6}  {label} ({:.1} s)", took.as_secs_f64());
    }
    result
}

fn spinner(label: &str) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").ok()?;
    let bar = ProgressBar::new_spinner().with_style(style).with_message(label.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    Some(bar)
}
