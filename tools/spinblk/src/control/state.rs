//! What the control thread knows: the disks with their boards, the reactors, and since when it counts.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use spinblk_bdev::Bdev;
use spinblk_perf::{QueueBoard, QueueSnapshot};

use super::LogFilter;
use super::changes::Changes;
use crate::api::{ReactorInfo, UnusedBdev};

/// Reads a reactor's counters, which does not disturb it.
pub type ReadReactor = Box<dyn Fn() -> ReactorInfo + Send>;

/// A disk that is served.
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Its device node or socket.
    pub path: Option<PathBuf>,
    /// How guests get at it.
    pub transport: String,
    /// Entries that each queue may have.
    pub queue_size: u16,
    /// Its block device, with all that it stands on.
    pub bdev: Arc<dyn Bdev>,
    /// Set while a driver or client has it.
    pub attached: Arc<AtomicBool>,
    /// Its queues.
    pub queues: Vec<Queue>,
}

/// A queue of a disk.
pub struct Queue {
    /// Its number on the disk.
    pub index: u16,
    /// The core that serves it.
    pub core: usize,
    /// What its reactor writes.
    pub board: Arc<QueueBoard>,
    /// What the board said at the last reset. Boards are never cleared: others count on them.
    baseline: Option<QueueSnapshot>,
}

impl Queue {
    /// A queue that counts from the board's beginning.
    #[must_use]
    pub fn new(index: u16, core: usize, board: Arc<QueueBoard>) -> Self {
        Self { index, core, board, baseline: None }
    }

    /// What it did since the last reset.
    #[must_use]
    pub fn since_reset(&self) -> QueueSnapshot {
        let now = self.board.snapshot();
        match &self.baseline {
            Some(baseline) => now.since(baseline),
            None => now,
        }
    }

    fn reset(&mut self) {
        self.baseline = Some(self.board.snapshot());
    }
}

/// All that is known.
pub struct State {
    /// The disks, in the order of the configuration.
    pub disks: Vec<Disk>,
    /// Bdevs of the configuration that no disk stands on.
    pub unused: Vec<UnusedBdev>,
    /// The reactors.
    pub reactors: Vec<ReadReactor>,
    /// What is logged.
    pub log: LogFilter,
    /// Where changes of all this go; without it there are none.
    pub(super) changes: Option<Changes>,
    started: Instant,
    counting_since: Instant,
}

impl State {
    /// The state when all disks are served.
    #[must_use]
    pub fn new(disks: Vec<Disk>, reactors: Vec<ReadReactor>, log: LogFilter) -> Self {
        let now = Instant::now();
        Self { disks, unused: Vec::new(), reactors, log, changes: None, started: now, counting_since: now }
    }

    /// With somebody who makes changes.
    pub(crate) fn with_changes(self, changes: Changes) -> Self {
        Self { changes: Some(changes), ..self }
    }

    pub(super) fn uptime_ms(&self) -> u64 {
        elapsed_ms(self.started)
    }

    /// Since the last reset.
    pub(super) fn since_ms(&self) -> u64 {
        elapsed_ms(self.counting_since)
    }

    /// Counts from now on.
    pub(super) fn reset(&mut self) {
        self.disks.iter_mut().flat_map(|disk| &mut disk.queues).for_each(Queue::reset);
        self.counting_since = Instant::now();
    }
}

/// The state, whoever else has left it in a panic: each change of it is one step.
pub(crate) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
