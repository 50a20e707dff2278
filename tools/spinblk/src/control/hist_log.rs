//! The log of latencies that grows while disks are served: a thread that reads the boards once in an interval.
//!
//! Contract: it runs off the reactor cores and only reads what they write. An interval that cannot be written, as on a full
//! disk, is lost and said once; serving goes on, and so does the log as soon as there is room again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use spinblk_perf::{Latency, QueueBoard, Stage};
use spinblk_reactor::off_reactor_cores;
use tracing::warn;

use super::Disk;
use crate::Error;
use crate::hist::{DeltaLog, Tag};

/// On a full disk a short interval may fit where a long one did not. So a failure is told again only after this many good
/// ones.
const NEWS_AFTER_INTERVALS: u32 = 60;

/// A queue: its disk's name, its number, and its board.
type Board = (String, u16, Arc<QueueBoard>);

/// What changes while the log is written.
enum Change {
    Added(Vec<Board>),
    Removed(String),
}

/// The running log. Dropping it writes the last interval, up to that moment.
#[derive(Debug)]
pub struct HistLog {
    /// The thread ends when this is gone.
    changes: Option<Sender<Change>>,
    thread: Option<JoinHandle<()>>,
}

impl HistLog {
    /// Starts writing what `disks` do, away from `polled_cores`.
    ///
    /// # Errors
    /// [`Error::ControlThread`].
    pub fn start(
        log: DeltaLog,
        interval: Duration,
        disks: &[Disk],
        polled_cores: &[usize],
    ) -> Result<Self, Error> {
        let boards = disks.iter().flat_map(boards).collect();
        let ((changes, changed), cores) = (channel(), polled_cores.to_vec());
        let thread = std::thread::Builder::new().name("hist-log".into()).spawn(move || {
            off_reactor_cores(&cores);
            Writer { log, boards, good_intervals: None }.run(interval, &changed);
        });
        Ok(Self { changes: Some(changes), thread: Some(thread.map_err(Error::ControlThread)?) })
    }

    /// Writes what another disk does, too.
    pub fn add(&self, disk: &Disk) {
        self.tell(Change::Added(boards(disk)));
    }

    /// The disk of this name is gone: writes what it did last, and then no more of it.
    pub fn remove(&self, name: &str) {
        self.tell(Change::Removed(name.into()));
    }

    fn tell(&self, change: Change) {
        // Fails when the thread has ended in a panic, of which the end tells.
        let _ = self.changes.as_ref().map(|changes| changes.send(change));
    }
}

fn boards(disk: &Disk) -> Vec<Board> {
    disk.queues.iter().map(|queue| (disk.name.clone(), queue.index, Arc::clone(&queue.board))).collect()
}

impl Drop for HistLog {
    fn drop(&mut self) {
        self.changes = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the thread of the latency log had ended in a panic");
        }
    }
}

struct Writer {
    log: DeltaLog,
    boards: Vec<Board>,
    /// Intervals written since one failed; `None` before the first failure.
    good_intervals: Option<u32>,
}

impl Writer {
    /// Writes an interval at each turn, before a disk goes, and at the end.
    fn run(mut self, interval: Duration, changes: &Receiver<Change>) {
        let mut next = Instant::now() + interval;
        loop {
            match changes.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {
                    self.write();
                    // After a time without turns, no more than one is made up for.
                    next = (next + interval).max(Instant::now());
                }
                Ok(Change::Added(boards)) => self.boards.extend(boards),
                Ok(Change::Removed(name)) => {
                    self.write();
                    self.boards.retain(|(disk, ..)| *disk != name);
                    self.log.forget(&name);
                }
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
        }
    }

    fn write(&mut self) {
        let reading: Vec<(Tag, Latency)> = self.boards.iter().flat_map(reading).collect();
        match self.log.write(SystemTime::now(), reading) {
            Ok(()) => self.good_intervals = self.good_intervals.map(|good| good.saturating_add(1)),
            Err(e) => {
                if self.good_intervals.is_none_or(|good| good >= NEWS_AFTER_INTERVALS) {
                    warn!("{e}; intervals are lost until there is room again; disks are served as before");
                }
                self.good_intervals = Some(0);
            }
        }
    }
}

/// All that a board says, by operation, size and stage.
fn reading((disk, queue, board): &Board) -> Vec<(Tag, Latency)> {
    let mut reading = Vec::new();
    for op in board.snapshot().ops {
        let tag = |stage| Tag::new(disk, *queue, op.kind, op.class, stage);
        // The configuration has checked the name, so there is a tag.
        reading.extend(tag(None).map(|tag| (tag, op.total)));
        for (stage, latency) in Stage::ALL.into_iter().zip(op.stages) {
            reading.extend(tag(Some(stage)).map(|tag| (tag, latency)));
        }
    }
    reading
}
