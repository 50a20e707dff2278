//! Aligned memory for I/O whose own memory O_DIRECT does not take. An I/O holds one buffer from start to end and goes
//! through it piece by piece; when none is free it waits its turn. Everything is allocated when the channel opens.

use std::collections::VecDeque;

use spinblk_reactor::{Error, Hugepages, Memory};

use super::transfer::for_each_piece;
use crate::Io;

/// Buffers of one channel: how many unaligned I/Os it has under way together.
const BUFFERS: usize = 16;
/// Bytes in each; a multiple of every alignment.
const BUFFER_BYTES: usize = 64 << 10;

/// Names a buffer that an I/O holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct BounceId(u8);

/// A channel's bounce buffers.
pub(super) struct Bounce {
    memory: Memory,
    free: Vec<BounceId>,
    waiting: VecDeque<u32>,
}

impl Bounce {
    /// Buffers for a channel of at most `depth` I/Os.
    pub(super) fn new(purpose: &str, depth: usize) -> Result<Self, Error> {
        Ok(Self {
            memory: Memory::new(BUFFERS * BUFFER_BYTES, Hugepages::Off, purpose)?,
            free: (0..BUFFERS as u8).map(BounceId).collect(),
            waiting: VecDeque::with_capacity(depth),
        })
    }

    /// A buffer for `tag`, now or (`None`) once [`Bounce::release`] names it.
    pub(super) fn acquire(&mut self, tag: u32) -> Option<BounceId> {
        let id = self.free.pop();
        if id.is_none() {
            self.waiting.push_back(tag);
        }
        id
    }

    /// Takes a buffer back. The longest-waiting tag gets it, if one waits.
    pub(super) fn release(&mut self, id: BounceId) -> Option<(u32, BounceId)> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.free.push(id);
        }
        next.map(|tag| (tag, id))
    }

    /// The buffer's address, and how much of `io` after `done_bytes` goes through it next.
    pub(super) fn next_piece(&self, id: BounceId, io: &Io, done_bytes: u64) -> (*mut u8, usize) {
        // SAFETY: ids below BUFFERS are the only ones made, and the memory holds BUFFERS buffers.
        let buffer = unsafe { self.memory.as_ptr().add(usize::from(id.0) * BUFFER_BYTES) };
        (buffer, (io.len_bytes() - done_bytes).min(BUFFER_BYTES as u64) as usize)
    }

    /// Copies the next piece of a write into the buffer.
    pub(super) fn fill(&mut self, id: BounceId, io: &Io, done_bytes: u64) {
        let (mut buffer, len_bytes) = self.next_piece(id, io, done_bytes);
        for_each_piece(io.segments(), done_bytes, len_bytes, |memory, count| {
            // SAFETY: the pieces add up to len_bytes at most, which is what the buffer holds. `Io::new`'s caller promised
            // that a write's segments are readable until it is reported. They lie elsewhere: the buffer is ours alone.
            unsafe {
                std::ptr::copy_nonoverlapping(memory, buffer, count);
                buffer = buffer.add(count);
            }
        });
    }

    /// Copies what a read has put into the buffer, at most a piece, to where it belongs.
    pub(super) fn empty(&mut self, id: BounceId, io: &Io, done_bytes: u64, read_bytes: usize) {
        let (mut buffer, len_bytes) = self.next_piece(id, io, done_bytes);
        for_each_piece(io.segments(), done_bytes, len_bytes.min(read_bytes), |memory, count| {
            // SAFETY: as in `fill`, with the segments of a read, which are writable until it is reported.
            unsafe {
                std::ptr::copy_nonoverlapping(buffer, memory, count);
                buffer = buffer.add(count);
            }
        });
    }
}
