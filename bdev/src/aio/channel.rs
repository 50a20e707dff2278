//! One core's side of a file: a slot for each tag, at most one operation of each in the ring.
//!
//! ```text
//!   submit ─► issue ─► ring ─► poll ─► step ─┬─► done
//!               ▲                            │
//!               └── short, EINTR, unaligned ─┘
//! ```
//!
//! A flush is an fdatasync: it covers every write that any core has had reported on this file, and waits for the
//! device's own cache. Several may be outstanding.

use std::sync::Arc;

use nix::fcntl::FallocateFlags as Mode;
use spinblk_reactor::{Error, OwnerId, Ring, RingFile, on_file, opcode, squeue, types};
use tracing::warn;

use super::bounce::{Bounce, BounceId};
use super::probe::discard_command;
use super::target::{DiscardBy, Target};
use super::transfer;
use crate::{Channel, Completion, Info, Io, IoError, IoResult, Op};

/// How often in a row the kernel may say "try again" before the I/O fails; each try takes one reactor iteration.
const MAX_RETRIES: u16 = 1000;
/// The file ends before the device does: somebody made it shorter.
const FILE_SHRANK: IoError = IoError::Errno(libc::ENODATA);

/// One I/O under way.
#[derive(Clone, Copy)]
struct Active {
    io: Io,
    done_bytes: u64,
    retries_left: u16,
    /// Whether zeroing may try to give blocks back.
    may_punch: bool,
    bounce: Option<BounceId>,
}

/// One core's channel to a file.
pub(super) struct AioChannel {
    info: Info,
    target: Arc<Target>,
    owner: OwnerId,
    file: RingFile,
    slots: Vec<Option<Active>>,
    bounce: Option<Bounce>,
    /// Changes places with the ring's inbox at each poll, so that neither grows.
    reaped: Vec<spinblk_reactor::Completion>,
    /// Whether several pieces in one registered buffer go as one operation: the kernel has it, and did not refuse.
    fixed_vectors: bool,
    fixed_buffer_ios: u64,
}

impl AioChannel {
    pub(super) fn open(
        info: &Info,
        target: Arc<Target>,
        ring: &mut Ring,
        depth: usize,
    ) -> Result<Self, Error> {
        let bounce = match target.direct {
            Some(_) => Some(Bounce::new(&format!("disk {}: bounce buffers", info.name), depth)?),
            None => None,
        };
        let owner = ring.register_owner(depth)?;
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
            fixed_vectors: [opcode::ReadvFixed::CODE, opcode::WritevFixed::CODE]
                .iter()
                .all(|&code| ring.supports(code)),
            fixed_buffer_ios: 0,
        })
    }

    /// Sends the next operation of an I/O into the ring.
    #[inline]
    fn issue(&mut self, active: Active, ring: &mut Ring) {
        let tag = active.io.tag;
        let entry = self.operation(&active);
        self.slots[tag as usize] = Some(active);
        // SAFETY: the file stays open while `self.target` lives, and the memory is the I/O's own, which its maker
        // promised to keep until the result is reported (which is not before this operation's completion), or a
        // bounce buffer. `drop` keeps file and bounce buffers alive for operations that are still out.
        unsafe { ring.push(self.owner, tag, entry) };
    }

    #[inline]
    fn operation(&mut self, active: &Active) -> squeue::Entry {
        let (io, file) = (&active.io, self.file);
        match (io.op(), active.bounce, &mut self.bounce) {
            (Op::Read | Op::Write, Some(id), Some(bounce)) => {
                if io.op() == Op::Write {
                    bounce.fill(id, io, active.done_bytes);
                }
                let (ptr, len_bytes) = bounce.next_piece(id, io, active.done_bytes);
                let offset = io.offset_bytes() + active.done_bytes;
                transfer::piece(io.op(), ptr, len_bytes as u32, offset, file)
            }
            (Op::Read | Op::Write, ..) => {
                transfer::operation(io, active.done_bytes, file, self.fixed_vectors)
            }
            (Op::Flush, ..) => {
                let data_only = types::FsyncFlags::DATASYNC;
                on_file!(file, |f| opcode::Fsync::new(f).flags(data_only).build())
            }
            (Op::Discard, ..) if self.target.discard == Some(DiscardBy::Command) => {
                discard_command(file, io.offset_bytes(), io.len_bytes())
            }
            (Op::Discard, ..) => fallocate(file, io, Mode::FALLOC_FL_PUNCH_HOLE),
            (Op::WriteZeroes { unmap: true }, ..) if active.may_punch => {
                fallocate(file, io, Mode::FALLOC_FL_PUNCH_HOLE)
            }
            (Op::WriteZeroes { .. }, ..) => fallocate(file, io, Mode::FALLOC_FL_ZERO_RANGE),
        }
    }

    /// Sends an I/O through a bounce buffer, now or when one is free.
    fn issue_bounced(&mut self, mut active: Active, ring: &mut Ring) {
        let tag = active.io.tag;
        active.bounce = self.bounce.as_mut().and_then(|bounce| bounce.acquire(tag));
        if active.bounce.is_some() {
            self.issue(active, ring);
        } else {
            self.slots[tag as usize] = Some(active);
        }
    }

    /// Takes the result of an I/O's last operation: the I/O's own result, or `None` when it goes on.
    fn step(&mut self, mut active: Active, result: i32, ring: &mut Ring) -> Option<IoResult> {
        let transfers = matches!(active.io.op(), Op::Read | Op::Write);
        let Ok(moved_bytes) = usize::try_from(result) else {
            return self.failed(active, -result, ring).map(Err);
        };
        if !transfers {
            return Some(Ok(()));
        }
        if moved_bytes == 0 {
            let write = active.io.op() == Op::Write;
            return Some(Err(if write { IoError::Errno(libc::EIO) } else { FILE_SHRANK }));
        }
        if let (Op::Read, Some(id), Some(bounce)) = (active.io.op(), active.bounce, &mut self.bounce) {
            bounce.empty(id, &active.io, active.done_bytes, moved_bytes);
        }
        active.done_bytes += moved_bytes as u64;
        if active.done_bytes >= active.io.len_bytes() {
            return Some(Ok(()));
        }
        let whole_blocks = active.done_bytes.is_multiple_of(u64::from(self.info.block_size));
        if active.io.op() == Op::Read && self.target.direct.is_some() && !whole_blocks {
            // Only the end of the file stops an O_DIRECT read inside a block; going on there would be refused as
            // unaligned.
            return Some(Err(FILE_SHRANK));
        }
        active.retries_left = MAX_RETRIES;
        self.issue(active, ring);
        None
    }

    /// What a failed operation means for its I/O: its error, or `None` when it is tried again.
    fn failed(&mut self, mut active: Active, errno: i32, ring: &mut Ring) -> Option<IoError> {
        let transfers = matches!(active.io.op(), Op::Read | Op::Write);
        match errno {
            libc::EINTR | libc::EAGAIN if active.retries_left > 0 => {
                active.retries_left -= 1;
                self.issue(active, ring);
                None
            }
            // A file system may not take vectors in a registered buffer; all take plain ones.
            libc::EINVAL | libc::EOPNOTSUPP
                if transfers
                    && self.fixed_vectors
                    && active.bounce.is_none()
                    && active.io.buf().is_some()
                    && active.io.segments().len() > 1 =>
            {
                self.fixed_vectors = false;
                self.issue(active, ring);
                None
            }
            // O_DIRECT asks for more than the kernel said at open; a bounce buffer meets anything.
            libc::EINVAL if transfers && self.bounce.is_some() && active.bounce.is_none() => {
                self.issue_bounced(active, ring);
                None
            }
            // A block device may learn only now that it cannot unmap. Plain zeroing it cannot refuse: where the
            // device has no command for it, the block layer writes zeroes.
            libc::EOPNOTSUPP if active.may_punch && matches!(active.io.op(), Op::WriteZeroes { .. }) => {
                active.may_punch = false;
                self.issue(active, ring);
                None
            }
            errno => Some(IoError::from_errno(errno)),
        }
    }

    /// Frees what a finished I/O held, and starts the one that waited for it.
    fn retire(&mut self, tag: u32, ring: &mut Ring) {
        let held = self.slots[tag as usize].take().and_then(|active| active.bounce);
        let (Some(id), Some(bounce)) = (held, &mut self.bounce) else { return };
        let Some((next_tag, id)) = bounce.release(id) else { return };
        if let Some(next) = self.slots[next_tag as usize] {
            self.issue(Active { bounce: Some(id), ..next }, ring);
        }
    }
}

/// IORING_OP_FALLOCATE over the I/O's range; the file keeps its size.
fn fallocate(file: RingFile, io: &Io, mode: Mode) -> squeue::Entry {
    let mode = (mode | Mode::FALLOC_FL_KEEP_SIZE).bits();
    on_file!(file, |f| {
        opcode::Fallocate::new(f, io.len_bytes()).offset(io.offset_bytes()).mode(mode).build()
    })
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
        let may_punch = self.target.zeroes_by_punching;
        let active = Active { io: *io, done_bytes: 0, retries_left: MAX_RETRIES, may_punch, bounce: None };
        if matches!(io.op(), Op::Read | Op::Write) {
            if self.target.direct.is_some_and(|align| !transfer::aligned(io.segments(), align)) {
                self.issue_bounced(active, ring);
                return None;
            }
            self.fixed_buffer_ios += u64::from(transfer::uses_fixed_buffer(io, self.fixed_vectors));
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
                self.retire(tag, ring);
                done.push(Completion { tag, result });
            }
        }
        self.reaped.clear();
    }

    fn fixed_buffer_ios(&self) -> u64 {
        self.fixed_buffer_ios
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
