//! A disk in RAM, in hugepages where there are any; gone at exit. All cores' channels share the one region. Reads and
//! writes are one copy, done at once. Zeroing a long range is done in steps, one per poll, so that a guest that
//! zeroes the whole disk does not hold up its neighbours on the core.
//!
//! # Memory that others change
//! The disk's region and the guest's segments are touched by raw-pointer copies only, never through a Rust reference:
//! a guest may change its side at any moment, and another core may copy to or from the same blocks. What two
//! *overlapping* I/Os in flight together leave behind is undefined on any disk (the contract promises no order),
//! and here it is a mixture of their bytes. Such copies race; the race is benign because bytes are all there is: any
//! value is valid, nothing here looks at one, decides by one or keeps one across a copy, and every address and
//! length comes from the checked [`Io`], never from the contents.

use std::collections::VecDeque;
use std::sync::Arc;

use spinblk_reactor::{Hugepages, Memory, Ring};

use crate::{Bdev, Capabilities, Channel, Completion, Error, Info, Io, IoResult, Op};

/// Most that one call zeroes: some tens of microseconds.
const ZERO_STEP_BYTES: u64 = 1 << 20;

/// A disk in RAM.
#[derive(Debug)]
pub struct Malloc {
    info: Info,
    memory: Arc<Memory>,
}

impl Malloc {
    /// A zeroed disk of `size_bytes` (rounded down to whole blocks), allocated and touched now.
    ///
    /// # Errors
    /// [`Error::BlockSize`], [`Error::TooSmall`], [`Error::Reactor`] when the memory is not to be had.
    pub fn new(name: &str, size_bytes: u64, block_size: u32, hugepages: Hugepages) -> Result<Self, Error> {
        let mut info = Info::new(name, size_bytes, block_size)?;
        info.caps = Capabilities { flush: true, discard: true, write_zeroes: true };
        // A size that usize cannot hold is refused by `Memory` like any other that is too large.
        let len_bytes = usize::try_from(info.size_bytes()).unwrap_or(usize::MAX);
        let memory = Memory::new(len_bytes, hugepages, &format!("disk {name}"))
            .map_err(|source| Error::Reactor { name: name.into(), source })?;
        Ok(Self { info, memory: Arc::new(memory) })
    }

    /// The same disk, refusing everything but reads and flushes when `read_only` is set.
    #[must_use]
    pub fn with_read_only(mut self, read_only: bool) -> Self {
        self.info.read_only = read_only;
        self
    }
}

impl Bdev for Malloc {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "malloc"
    }

    fn open(&self, _ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(MallocChannel {
            info: self.info.clone(),
            memory: Arc::clone(&self.memory),
            zeroing: VecDeque::with_capacity(depth),
        }))
    }
}

/// A range that is being zeroed.
struct Zeroing {
    tag: u32,
    offset_bytes: u64,
    len_bytes: u64,
}

struct MallocChannel {
    info: Info,
    memory: Arc<Memory>,
    zeroing: VecDeque<Zeroing>,
}

impl MallocChannel {
    /// Copies between the disk and the segments of a *checked* read or write.
    fn copy(&self, io: &Io) {
        // SAFETY: `check` found offset + len within the device, whose blocks all lie in `memory`: its size never changes,
        // as only this module could make it grow.
        let mut disk = unsafe { self.memory.as_ptr().add(io.offset_bytes() as usize) };
        for segment in io.segments() {
            let (guest, count) = (segment.as_ptr(), segment.len_bytes());
            // SAFETY: `check` found that the segments add up to the length, so `disk + count` stays within the range
            // checked above. `Io::new`'s caller promised that the segment is mapped, readable for a write and writable
            // for a read. The two never overlap: the disk's address is known to this module alone. Others may change
            // either side meanwhile (module head): the bytes copied are then any mixture, and nothing depends on them.
            unsafe {
                match io.op() {
                    Op::Read => std::ptr::copy_nonoverlapping(disk, guest, count),
                    _ => std::ptr::copy_nonoverlapping(guest, disk, count),
                }
                disk = disk.add(count);
            }
        }
    }

    /// Zeroes the first step of a checked range and takes it off; whether that was all.
    fn zero_step(&self, range: &mut Zeroing) -> bool {
        let step_bytes = range.len_bytes.min(ZERO_STEP_BYTES);
        // SAFETY: the range was checked to lie within the device, and a step is a part of it. Others may copy to or
        // from it meanwhile (module head).
        unsafe {
            self.memory.as_ptr().add(range.offset_bytes as usize).write_bytes(0, step_bytes as usize);
        }
        range.offset_bytes += step_bytes;
        range.len_bytes -= step_bytes;
        range.len_bytes == 0
    }
}

impl Channel for MallocChannel {
    fn submit(&mut self, io: &Io, _ring: &mut Ring) -> Option<IoResult> {
        if let Err(error) = self.info.check(io) {
            return Some(Err(error));
        }
        match io.op() {
            Op::Flush => {}
            Op::Read | Op::Write => self.copy(io),
            // A discarded block may read as anything; zeroes keep the guest's old data out of later reads.
            Op::Discard | Op::WriteZeroes { .. } => {
                let mut range =
                    Zeroing { tag: io.tag, offset_bytes: io.offset_bytes(), len_bytes: io.len_bytes() };
                if !self.zero_step(&mut range) {
                    self.zeroing.push_back(range);
                    return None;
                }
            }
        }
        Some(Ok(()))
    }

    fn poll(&mut self, _ring: &mut Ring, done: &mut Vec<Completion>) {
        let Some(mut range) = self.zeroing.pop_front() else { return };
        if self.zero_step(&mut range) {
            done.push(Completion { tag: range.tag, result: Ok(()) });
        } else {
            self.zeroing.push_back(range);
        }
    }

    fn close(&mut self, _ring: &mut Ring) {}
}
