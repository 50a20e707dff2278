//! One I/O under way, and the operation that it goes on with.

use nix::fcntl::FallocateFlags as Mode;
use spinblk_reactor::{RingFile, on_file, opcode, squeue, types};

use super::bounce;
use super::probe::discard_command;
use super::target::{DiscardBy, Target};
use super::transfer;
use crate::pool::{BufferId, Pool};
use crate::{Io, Op};

/// How often in a row the kernel may say "try again" before the I/O fails; each try takes one reactor iteration.
const MAX_RETRIES: u16 = 1000;

/// One I/O under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub(super) io: Io,
    pub(super) done_bytes: u64,
    retries_left: u16,
    /// Whether zeroing may try to give blocks back.
    pub(super) may_punch: bool,
    pub(super) bounce: Option<BufferId>,
    /// Whether its last operation went to the polled ring, ...
    pub(super) polled: bool,
    /// ... and whether it was free to name several pieces of a registered buffer. The kernel may refuse either.
    pub(super) fixed_vectors: bool,
}

impl Active {
    /// An I/O that nothing was done for yet.
    #[inline]
    pub(super) fn new(io: Io, may_punch: bool) -> Self {
        let (polled, fixed_vectors) = (false, false);
        Self { io, done_bytes: 0, retries_left: MAX_RETRIES, may_punch, bounce: None, polled, fixed_vectors }
    }

    /// Whether it moves data.
    #[inline]
    pub(super) fn transfers(&self) -> bool {
        matches!(self.io.op(), Op::Read | Op::Write)
    }

    /// Counts what was moved; "try again" may be said anew.
    #[inline]
    pub(super) fn advance(&mut self, moved_bytes: usize) {
        self.done_bytes += moved_bytes as u64;
        self.retries_left = MAX_RETRIES;
    }

    /// Whether it may be tried once more.
    pub(super) fn may_retry(&mut self) -> bool {
        let may = self.retries_left > 0;
        self.retries_left = self.retries_left.saturating_sub(1);
        may
    }

    /// Whether its last operation named several pieces of a registered buffer.
    pub(super) fn used_fixed_vectors(&self) -> bool {
        let several = self.io.buf().is_some() && self.io.segments().len() > 1;
        self.fixed_vectors && self.transfers() && self.bounce.is_none() && several
    }

    /// The next operation. `pool` has the buffer that it may hold.
    #[inline]
    pub(super) fn operation(
        &self,
        target: &Target,
        file: RingFile,
        pool: Option<&mut Pool>,
    ) -> squeue::Entry {
        let io = &self.io;
        match (io.op(), self.bounce, pool) {
            (Op::Read | Op::Write, Some(id), Some(pool)) => self.bounced(id, pool, file),
            (Op::Read | Op::Write, ..) => transfer::operation(io, self.done_bytes, file, self.fixed_vectors),
            (Op::Flush, ..) => {
                let data_only = types::FsyncFlags::DATASYNC;
                on_file!(file, |f| opcode::Fsync::new(f).flags(data_only).build())
            }
            (Op::Discard, ..) if target.discard == Some(DiscardBy::Command) => {
                discard_command(file, io.offset_bytes(), io.len_bytes())
            }
            (Op::Discard, ..) => fallocate(file, io, Mode::FALLOC_FL_PUNCH_HOLE),
            (Op::WriteZeroes { unmap: true }, ..) if self.may_punch => {
                fallocate(file, io, Mode::FALLOC_FL_PUNCH_HOLE)
            }
            (Op::WriteZeroes { .. }, ..) => fallocate(file, io, Mode::FALLOC_FL_ZERO_RANGE),
        }
    }

    /// The next piece through the buffer that it holds.
    fn bounced(&self, id: BufferId, pool: &mut Pool, file: RingFile) -> squeue::Entry {
        let io = &self.io;
        if io.op() == Op::Write {
            bounce::fill(pool, id, io, self.done_bytes);
        }
        let (ptr, len_bytes) = bounce::next_piece(pool, id, io, self.done_bytes);
        transfer::piece(io.op(), ptr, len_bytes as u32, io.offset_bytes() + self.done_bytes, file)
    }
}

/// IORING_OP_FALLOCATE over the I/O's range; the file keeps its size.
fn fallocate(file: RingFile, io: &Io, mode: Mode) -> squeue::Entry {
    let mode = (mode | Mode::FALLOC_FL_KEEP_SIZE).bits();
    on_file!(file, |f| {
        opcode::Fallocate::new(f, io.len_bytes()).offset(io.offset_bytes()).mode(mode).build()
    })
}
