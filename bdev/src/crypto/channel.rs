//! One core's side of an encrypted disk.
//!
//! ```text
//!   write   guest memory ──encrypt──► pool buffer ──► child      a piece at a time
//!   read    guest memory ◄──────────────────────────── child
//!                └─► decrypted in place
//! ```
//!
//! A write never changes the guest's memory, and what the guest does to it meanwhile cannot reach the child
//! unencrypted: the child sees the pool buffer only. Writes that find no free buffer wait their turn. The child knows
//! each I/O by the tag that it has here.

use std::cell::Cell;

use spinblk_reactor::Ring;
use tracing::warn;

use super::key::XtsKey;
use super::sectors::{Cursor, Sectors};
use crate::pool::{BufferId, Pool};
use crate::{Bdev, Channel, ChannelCounters, Completion, Error, Info, Io, IoError, IoResult, Op, Segment};

/// Most buffers of one channel: how many writes it has at the child together.
const MAX_BUFFERS: usize = 64;
/// Bytes in each, and so in a piece; whole sectors, and little enough to stay in a core's own cache.
const BUFFER_BYTES: usize = 64 << 10;

/// One I/O under way.
#[derive(Clone, Copy)]
struct Active {
    io: Io,
    /// How much of a write the child has been given.
    cursor: Cursor,
    /// What a write goes through; none while it waits for one.
    buffer: Option<BufferId>,
}

/// One core's channel to an encrypted disk.
pub(super) struct CryptoChannel {
    info: Info,
    sectors: Sectors,
    child: Box<dyn Channel>,
    pool: Pool,
    /// For each buffer the segment that the child has of it. In cells, because the child's are borrowed while others
    /// change.
    pieces: Box<[Cell<Segment>]>,
    slots: Vec<Option<Active>>,
    reaped: Vec<Completion>,
}

impl CryptoChannel {
    pub(super) fn open(
        info: &Info,
        key: &XtsKey,
        child: &dyn Bdev,
        ring: &mut Ring,
        depth: usize,
    ) -> Result<Self, Error> {
        let name = || info.name.clone();
        let sectors = Sectors::new(key, info.block_size as usize).map_err(|why| Error::Key {
            name: name(),
            source_name: "schedule".into(),
            why,
        })?;
        let count = depth.clamp(1, MAX_BUFFERS);
        let purpose = format!("disk {}: encryption buffers", info.name);
        let mut pool = Pool::new(&purpose, count as u16, BUFFER_BYTES, depth)
            .map_err(|source| Error::Reactor { name: name(), source })?;
        // Last, because it must be closed again.
        let child = child.open(ring, depth)?;
        pool.register(ring);
        Ok(Self {
            info: info.clone(),
            sectors,
            child,
            pool,
            pieces: (0..count).map(|_| Cell::new(Segment::EMPTY)).collect(),
            slots: vec![None; depth],
            reaped: Vec::with_capacity(depth),
        })
    }

    /// Everything but a write goes to the child as it is.
    #[inline]
    fn submit_as_it_is(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        let result = self.child.submit(io, ring);
        if result.is_none() {
            self.slots[io.tag as usize] = Some(Active { io: *io, cursor: Cursor::default(), buffer: None });
        }
        result.map(|result| self.ended(io, result))
    }

    /// What the child's result of an I/O that it was given as it is means here.
    #[inline]
    fn ended(&mut self, io: &Io, result: IoResult) -> IoResult {
        match (io.op(), result) {
            (Op::Read, Ok(())) => self.sectors.decrypt(io),
            // A failed read may have left anything in the memory: there is nothing in it to decrypt.
            (_, result) => result,
        }
    }

    #[inline]
    fn submit_write(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        let buffer = self.pool.acquire(io.tag);
        let mut active = Active { io: *io, cursor: Cursor::default(), buffer };
        let result = buffer.and_then(|buffer| self.write_on(&mut active, buffer, ring));
        match (result, buffer) {
            (Some(result), Some(buffer)) => {
                let next = self.pool.release(buffer);
                debug_assert!(next.is_none(), "a write waited though a buffer was free");
                Some(result)
            }
            _ => {
                self.slots[io.tag as usize] = Some(active);
                None
            }
        }
    }

    /// Gives the child piece after piece of a write, until it keeps one (`None`) or the write has ended.
    #[inline]
    fn write_on(&mut self, write: &mut Active, buffer: BufferId, ring: &mut Ring) -> Option<IoResult> {
        let io = &write.io;
        while write.cursor.done_bytes < io.len_bytes() {
            let offset_bytes = io.offset_bytes() + write.cursor.done_bytes;
            let len_bytes = self.pool.piece_bytes(io.len_bytes() - write.cursor.done_bytes);
            let start = self.pool.buffer(buffer);
            // SAFETY: a buffer and the length of a write are whole sectors, and a piece is no more than either. The
            // buffer is this write's alone, and the child is done with what was in it before.
            if let Err(error) = unsafe { self.sectors.encrypt(io, &mut write.cursor, start, len_bytes) } {
                return Some(Err(error));
            }
            let piece = &self.pieces[buffer.index()];
            piece.set(Segment::new(start, len_bytes));
            // SAFETY: the piece stays as it is, and the buffer mapped, until the child has reported it: the buffer is
            // given back only then. `drop` keeps both for a child that has not. All of the pool lies in its
            // registered buffer.
            let piece = unsafe {
                let segments = std::slice::from_raw_parts(piece.as_ptr(), 1);
                Io::new(Op::Write, offset_bytes, len_bytes as u64, segments, self.pool.buf(), io.tag)
            };
            match self.child.submit(&piece, ring) {
                Some(Ok(())) => {}
                ended_or_kept => return ended_or_kept,
            }
        }
        Some(Ok(()))
    }

    /// Takes the child's answer; what to answer above, or `None` when the I/O goes on.
    fn step(&mut self, active: &mut Active, result: IoResult, ring: &mut Ring) -> Option<IoResult> {
        if active.io.op() != Op::Write {
            return Some(self.ended(&active.io, result));
        }
        // Without a buffer the child has nothing of this write: it answers for something that it does not hold.
        let buffer = active.buffer?;
        match result {
            Ok(()) => self.write_on(active, buffer, ring),
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes a buffer back and starts the writes that wait: one, and for each that ends at once, one more.
    fn pass_on(&mut self, mut buffer: BufferId, ring: &mut Ring, done: &mut Vec<Completion>) {
        while let Some((tag, next_buffer)) = self.pool.release(buffer) {
            buffer = next_buffer;
            let Some(mut write) = self.slots[tag as usize].take() else { continue };
            write.buffer = Some(buffer);
            match self.write_on(&mut write, buffer, ring) {
                Some(result) => done.push(Completion { tag, result }),
                None => {
                    self.slots[tag as usize] = Some(write);
                    return;
                }
            }
        }
    }
}

impl Channel for CryptoChannel {
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
        if io.op() == Op::Write { self.submit_write(io, ring) } else { self.submit_as_it_is(io, ring) }
    }

    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>) {
        self.child.poll(ring, &mut self.reaped);
        for index in 0..self.reaped.len() {
            let Completion { tag, result } = self.reaped[index];
            let Some(mut active) = self.slots.get(tag as usize).copied().flatten() else { continue };
            let Some(result) = self.step(&mut active, result, ring) else {
                self.slots[tag as usize] = Some(active);
                continue;
            };
            self.slots[tag as usize] = None;
            done.push(Completion { tag, result });
            if let Some(buffer) = active.buffer {
                self.pass_on(buffer, ring, done);
            }
        }
        self.reaped.clear();
    }

    fn counters(&self) -> ChannelCounters {
        self.child.counters()
    }

    fn close(&mut self, ring: &mut Ring) {
        self.child.close(ring);
        self.pool.unregister(ring);
    }
}

impl Drop for CryptoChannel {
    fn drop(&mut self) {
        if self.slots.iter().any(Option::is_some) {
            // Against the contract, but the kernel may still read the buffers: better lost than reused.
            warn!("bdev {}: channel dropped with I/O in flight; leaking what it uses", self.info.name);
            self.pool.leak();
            std::mem::forget(std::mem::take(&mut self.pieces));
        }
    }
}
