//! The live line of `spinblk perf --progress`: on a terminal only, and gone when the report comes.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use spinblk_load::{Job, Phase, Progress};

/// How often the rate is counted.
const INTERVAL: Duration = Duration::from_millis(500);

/// The line, and what it said last.
pub(super) struct Live {
    bar: ProgressBar,
    time: Duration,
    phase: Phase,
    phase_began: Instant,
    last: (Instant, u64),
}

impl Live {
    pub(super) fn new(job: &Job) -> Self {
        // Draws on stderr, and nothing where that is no terminal.
        let bar = ProgressBar::new_spinner();
        let now = Instant::now();
        Self { bar, time: job.time, phase: Phase::Start, phase_began: now, last: (now, 0) }
    }

    pub(super) fn show(&mut self, progress: &Progress<'_>) {
        let now = Instant::now();
        if progress.phase != self.phase {
            (self.phase, self.phase_began, self.last) = (progress.phase, now, (now, progress.ios));
        }
        let (last, last_ios) = self.last;
        if progress.phase == Phase::Measure && now - last < INTERVAL {
            return;
        }
        let rate = progress.ios.saturating_sub(last_ios) as f64 / (now - last).as_secs_f64().max(1e-9);
        self.last = (now, progress.ios);
        let (elapsed, whole) = ((now - self.phase_began).as_secs(), self.time.as_secs_f64());
        self.bar.set_message(match progress.phase {
            Phase::Start => "opening".into(),
            Phase::Fill => format!("writing all blocks, {elapsed} s"),
            Phase::WarmUp => format!("warming up, {elapsed} s"),
            Phase::Measure => format!("{:.3} M IOPS, {elapsed} of {whole:.0} s", rate / 1e6),
            Phase::ReadBack => format!("reading back, {elapsed} s"),
        });
        self.bar.tick();
    }

    pub(super) fn clear(self) {
        self.bar.finish_and_clear();
    }
}
