//! A thread that reads one block after the other, and knows which read took longest since it was told to watch.

use crate::block::DirectDisk;
use crate::fail::Fail;
use crate::wait::wait_for;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// When one read was begun, and when it was done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    began: Instant,
    pub(super) ended: Instant,
}

/// What both threads see.
#[derive(Default)]
struct Shared {
    reads: AtomicU64,
    /// Set once: what went before does not count.
    is_to_watch: AtomicBool,
    is_over: AtomicBool,
}

/// The running thread.
pub(super) struct Reader {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Read, Fail>>,
}

impl Reader {
    pub(super) fn start(device: &Path) -> Result<Reader, Fail> {
        let disk = DirectDisk::open(device)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || read(&disk, &theirs));
        Ok(Reader { shared, thread })
    }

    /// How many are done.
    pub(super) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// Whether a read has failed.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn wait_for_reads(&self, count: u64, limit_s: u64) -> Result<(), Fail> {
        wait_for(&format!("{count} reads"), limit_s, || self.has_ended() || self.reads() >= count)
    }

    /// From now on the longest read counts, the one that is on its way included.
    pub(super) fn watch(&self) {
        self.shared.is_to_watch.store(true, Ordering::Relaxed);
    }

    /// Ends the thread; gives the read that took longest. An error of any read is one here.
    pub(super) fn finish(self) -> Result<Read, Fail> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err(Fail::Check("the reading thread panicked".to_owned())))
    }
}

fn read(disk: &DirectDisk, shared: &Shared) -> Result<Read, Fail> {
    let now = Instant::now();
    let mut longest = Read { began: now, ended: now };
    while !shared.is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        disk.read_block(0)?;
        let ended = Instant::now();
        let is_first = shared.is_to_watch.swap(false, Ordering::Relaxed);
        if is_first || ended - began > longest.ended - longest.began {
            longest = Read { began, ended };
        }
        shared.reads.fetch_add(1, Ordering::Relaxed);
    }
    Ok(longest)
}
