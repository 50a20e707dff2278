//! One core's side of a file: a slot for each tag, at most one operation of each in the ring.
//!
//! ```text
//!   submit ─► issue ─► ring ─► poll ─► step ─┬─► done
//!               ▲                            │
//!               └── short, or refused ───────┘
//! ```
//!
//! A flush is an fdatasync: it covers every write that any core has had reported on this file, and waits for the
//! device's own cache. Several may be outstanding.

use std::sync::Arc;

use spinblk_reactor::{Error, OwnerId, Ring, RingFile, opcode};
use tracing::warn;

use super::active::Active;
use super::bounce;
use super::target::Target;
use super::transfer;
use crate::pool::Pool;
use crate::{Channel, ChannelCounters, Completion, Info, Io, IoError, IoResult, Op};

/// The file ends before the device does: somebody made it shorter.
const FILE_SHRANK: IoError = IoError::Errno(libc::ENODATA);

/// One core's channel to a file.
pub(super) struct AioChannel {
    pub(super) info: Info,
    pub(super) target: Arc<Target>,
    owner: OwnerId,
    file: RingFile,
    slots: Vec<Option<Active>>,
    pub(super) bounce: Option<Pool>,
    /// Changes places with the ring's inbox at each poll, so that neither grows.
    reaped: Vec<spinblk_reactor::Completion>,
    /// Whether reads and writes go to the ring's polled side.
    pub(super) polled: bool,
    /// Whether several pieces in one registered buffer go as one operation: the kernel has it, and did not refuse.
    pub(super) fixed_vectors: bool,
    pub(super) counters: ChannelCounters,
}

impl AioChannel {
    pub(super) fn open(
        info: &Info,
        target: Arc<Target>,
        ring: &mut Ring,
        depth: usize,
    ) -> Result<Self, Error> {
        let bounce = match target.direct {
            Some(_) => Some(bounce::pool(&format!("disk {}: bounce buffers", info.name), depth)?),
            None => None,
        };
        let owner = ring.register_owner(depth)?;
        let polled = target.polls() && ring.start_polling();
        let file = match ring.register_file(target.fd()) {
            Some(id) => RingFile::Registered(id),
            None => RingFile::Plain(target.fd()),
        };
        Ok(Self {
            info: info.clone(),
            target,
            owner,
            file,
            slots: vec![None; depth],
            bounce,
            reaped: Vec::with_capacity(depth),
            polled,
            fixed_vectors: [opcode::ReadvFixed::CODE, opcode::WritevFixed::CODE]
                .iter()
                .all(|&code| ring.supports(code)),
            counters: ChannelCounters::default(),
        })
    }

    /// Sends the next operation of an I/O into the ring.
    #[inline]
    pub(super) fn issue(&mut self, mut active: Active, ring: &mut Ring) {
        let tag = active.io.tag;
        active.fixed_vectors = self.fixed_vectors;
        let entry = active.operation(&self.target, self.file, self.bounce.as_mut());
        // SAFETY: the file stays open while `self.target` lives, and the memory is the I/O's own, which its maker
        // promised to keep until the result is reported (which is not before this operation's completion), or a
        // bounce buffer. `drop` keeps file and bounce buffers alive for operations that are still out.
        unsafe {
            if self.polled && active.transfers() {
                self.polled = ring.push_polled(self.owner, tag, entry);
                active.polled = self.polled;
            } else {
                active.polled = false;
                ring.push(self.owner, tag, entry);
            }
        }
        self.slots[tag as usize] = Some(active);
    }

    /// Sends an I/O through a bounce buffer, now or when one is free.
    pub(super) fn issue_bounced(&mut self, mut active: Active, ring: &mut Ring) {
        let tag = active.io.tag;
        self.counters.bounced_ios += 1;
        active.bounce = self.bounce.as_mut().and_then(|pool| pool.acquire(tag));
        if active.bounce.is_some() {
            self.issue(active, ring);
        } else {
            self.slots[tag as usize] = Some(active);
        }
    }

    /// Takes the result of an I/O's last operation: the I/O's own result, or `None` when it goes on.
    fn step(&mut self, mut active: Active, result: i32, ring: &mut Ring) -> Option<IoResult> {
        let Ok(moved_bytes) = usize::try_from(result) else {
            return self.failed(active, -result, ring).map(Err);
        };
        if !active.transfers() {
            return Some(Ok(()));
        }
        if moved_bytes == 0 {
            let write = active.io.op() == Op::Write;
            return Some(Err(if write { IoError::Errno(libc::EIO) } else { FILE_SHRANK }));
        }
        if let (Op::Read, Some(id), Some(pool)) = (active.io.op(), active.bounce, &mut self.bounce) {
            bounce::empty(pool, id, &active.io, active.done_bytes, moved_bytes);
        }
        active.advance(moved_bytes);
        if active.done_bytes >= active.io.len_bytes() {
            return Some(Ok(()));
        }
        let whole_blocks = active.done_bytes.is_multiple_of(u64::from(self.info.block_size));
        if active.io.op() == Op::Read && self.target.direct.is_some() && !whole_blocks {
            // Only the end of the file stops an O_DIRECT read inside a block; going on there would be refused as
            // unaligned.
            return Some(Err(FILE_SHRANK));
        }
        self.issue(active, ring);
        None
    }

    /// Counts an I/O that is done.
    #[inline]
    fn count(&mut self, active: &Active, result: IoResult) {
        self.counters.polled_ios += u64::from(active.polled);
        match result {
            Ok(()) => {}
            Err(IoError::NoSpace) => self.counters.no_space += 1,
            Err(_) => self.counters.failed += 1,
        }
    }

    /// Frees what a finished I/O held, and starts the one that waited for it.
    fn retire(&mut self, tag: u32, ring: &mut Ring) {
        let held = self.slots[tag as usize].take().and_then(|active| active.bounce);
        let (Some(id), Some(pool)) = (held, &mut self.bounce) else { return };
        let Some((next_tag, id)) = pool.release(id) else { return };
        if let Some(mut next) = self.slots[next_tag as usize] {
            next.bounce = Some(id);
            self.issue(next, ring);
        }
    }
}

impl Channel for AioChannel {
    fn submit(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        if let Err(error) = self.info.check(io) {
            return Some(Err(error));
        }
        if io.len_bytes() == 0 && io.op() != Op::Flush {
            return Some(Ok(()));
        }
        // A tag beyond the depth, or in use, is the caller's mistake; to answer is kinder than to mix two I/Os up.
        if !matches!(self.slots.get(io.tag as usize), Some(None)) {
            return Some(Err(IoError::Errno(libc::EINVAL)));
        }
        let active = Active::new(*io, self.target.zeroes_by_punching);
        if active.transfers() {
            if self.target.direct.is_some_and(|align| !transfer::aligned(io.segments(), align)) {
                self.issue_bounced(active, ring);
                return None;
            }
            self.counters.fixed_buffer_ios += u64::from(transfer::uses_fixed_buffer(io, self.fixed_vectors));
        }
        self.issue(active, ring);
        None
    }

    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>) {
        match ring.inbox(self.owner) {
            Some(inbox) if !inbox.is_empty() => std::mem::swap(inbox, &mut self.reaped),
            _ => return,
        }
        for index in 0..self.reaped.len() {
            let spinblk_reactor::Completion { tag, result } = self.reaped[index];
            let Some(active) = self.slots.get(tag as usize).copied().flatten() else { continue };
            if let Some(mut result) = self.step(active, result, ring) {
                if active.io.op() == Op::Flush {
                    result = self.target.flush_outcome(result);
                }
                self.count(&active, result);
                self.retire(tag, ring);
                done.push(Completion { tag, result });
            }
        }
        self.reaped.clear();
    }

    fn counters(&self) -> ChannelCounters {
        self.counters
    }

    fn close(&mut self, ring: &mut Ring) {
        ring.release_owner(self.owner);
        if let RingFile::Registered(id) = self.file {
            ring.unregister_file(id);
        }
    }
}

impl Drop for AioChannel {
    fn drop(&mut self) {
        if self.slots.iter().any(Option::is_some) {
            // Against the contract, but the kernel may still write into the buffers, and entries not submitted
            // yet name the descriptor: better lost than reused.
            warn!("bdev {}: channel dropped with I/O in flight; leaking what it uses", self.info.name);
            std::mem::forget(self.bounce.take());
            std::mem::forget(Arc::clone(&self.target));
        }
    }
}

#[cfg(test)]
mod tests;
