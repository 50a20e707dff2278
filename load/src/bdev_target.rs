//! A bdev stack in this process, with nothing in between: what the backend itself can do.
//!
//! ```text
//!   prepare ─► Channel::submit ─► done at once, kept for the next reap
//!                              └► in the ring ─► Ring::enter, Channel::poll in reap
//! ```
//! Each lane has a ring, a channel and memory of its own, all used by its thread only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use spinblk_bdev::{Bdev, Channel, Completion, Io, IoError, IoResult, Segment};
use spinblk_reactor::{BufId, Hugepages, Memory, Ring};
use tracing::warn;

use crate::{Buffer, Done, Error, Fault, Geometry, Lane, Op, Target};

/// As many slots as a lane may have; more only wait in the kernel.
const MAX_DEPTH: u32 = 4096;
const MAX_QUEUES: u16 = 64;
/// How long a lane waits for its last requests when it is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bdev under load.
pub struct BdevTarget {
    bdev: Arc<dyn Bdev>,
    geometry: Geometry,
    hugepages: Hugepages,
}

impl BdevTarget {
    /// Puts `bdev` under load; memory for its requests comes from where `hugepages` says.
    #[must_use]
    pub fn new(bdev: Arc<dyn Bdev>, hugepages: Hugepages) -> Self {
        let info = bdev.info();
        let geometry = Geometry {
            name: info.name.as_str().into(),
            size_bytes: info.size_bytes(),
            block_size: info.block_size,
            read_only: info.read_only,
            max_queues: MAX_QUEUES,
            max_depth: MAX_DEPTH,
            interrupts: false,
        };
        Self { bdev, geometry, hugepages }
    }
}

impl Target for BdevTarget {
    type Lane = BdevLane;

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn open(&self, queue: u16, depth: u32, block_bytes: u32) -> Result<BdevLane, Error> {
        let (depth, block_bytes) = (depth as usize, block_bytes as usize);
        let purpose = format!("load on {} queue {queue}", self.geometry.name);
        let memory = Memory::new(depth * block_bytes, self.hugepages, &purpose)?;
        let mut ring = Ring::new(depth.clamp(8, 4096) as u32)?;
        let channel = self.bdev.open(&mut ring, depth)?;
        // SAFETY: the memory stays mapped until `drop`, which releases the buffer first.
        let buf = unsafe { ring.acquire_buffer(memory.as_ptr(), memory.len_bytes()) };
        let segment = |slot| Segment::new(memory.as_ptr().wrapping_add(slot * block_bytes), block_bytes);
        Ok(BdevLane {
            target: self.geometry.name.clone(),
            queue,
            segments: (0..depth).map(segment).collect(),
            memory: Some(memory),
            block_bytes,
            buf,
            channel,
            ring,
            in_flight: 0,
            done: Vec::with_capacity(depth),
        })
    }
}

/// One channel under load.
pub struct BdevLane {
    target: Arc<str>,
    queue: u16,
    /// One for each slot; never moves and never changes.
    segments: Box<[Segment]>,
    /// `None` only while it is dropped.
    memory: Option<Memory>,
    block_bytes: usize,
    buf: Option<BufId>,
    channel: Box<dyn Channel>,
    ring: Ring,
    in_flight: usize,
    done: Vec<Completion>,
}

impl Lane for BdevLane {
    #[inline]
    fn prepare(&mut self, slot: u32, op: Op, offset_bytes: u64) {
        let op = match op {
            Op::Read => spinblk_bdev::Op::Read,
            Op::Write => spinblk_bdev::Op::Write,
        };
        let segments = std::slice::from_ref(&self.segments[slot as usize]);
        // SAFETY: the segments are as old as the lane and never change; their memory stays mapped until everything in
        // flight has been reported (see `drop`).
        let io = unsafe { Io::new(op, offset_bytes, self.block_bytes as u64, segments, self.buf, slot) };
        self.in_flight += 1;
        if let Some(result) = self.channel.submit(&io, &mut self.ring) {
            self.done.push(Completion { tag: slot, result });
        }
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        Ok(())
    }

    #[inline]
    fn reap(&mut self, done: &mut Vec<Done>) -> Result<(), Error> {
        self.ring.enter()?;
        self.channel.poll(&mut self.ring, &mut self.done);
        if self.done.len() > self.in_flight {
            let what = format!("{} completions for {} I/Os", self.done.len(), self.in_flight);
            return Err(Error::Ring { target: self.target.to_string(), queue: self.queue, what });
        }
        self.in_flight -= self.done.len();
        done.extend(self.done.drain(..).map(|c| Done { slot: c.tag, fault: fault(c.result) }));
        Ok(())
    }

    fn buffer(&mut self, slot: u32) -> Buffer<'_> {
        let segment = self.segments[slot as usize];
        // SAFETY: the segment lies in `memory`, at a multiple of the block size, which is one of 512; it is mapped for
        // as long as the lane, which is borrowed.
        unsafe { Buffer::new(segment.as_ptr(), segment.len_bytes()) }
    }
}

impl Drop for BdevLane {
    fn drop(&mut self) {
        let began = Instant::now();
        while self.in_flight > self.done.len() && began.elapsed() < PATIENCE {
            if self.ring.enter().is_err() {
                break;
            }
            self.channel.poll(&mut self.ring, &mut self.done);
        }
        if self.in_flight > self.done.len() {
            warn!("{}: I/Os are still in flight; their memory is given up", self.target);
            std::mem::forget(self.memory.take());
            return;
        }
        self.channel.close(&mut self.ring);
        if let Some(buf) = self.buf {
            self.ring.release_buffer(buf);
        }
    }
}

fn fault(result: IoResult) -> Option<Fault> {
    Some(match result.err()? {
        IoError::OutOfRange => Fault::OutOfRange,
        IoError::Misaligned | IoError::TooManySegments => Fault::Misaligned,
        IoError::ReadOnly => Fault::ReadOnly,
        IoError::Unsupported => Fault::Unsupported,
        IoError::NoSpace => Fault::NoSpace,
        IoError::Errno(libc::EIO) => Fault::Eio,
        IoError::Errno(_) => Fault::OtherErrno,
    })
}
