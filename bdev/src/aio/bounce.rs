//! Copies between an I/O whose memory O_DIRECT does not take and a buffer of the channel's pool, which it does.

use spinblk_reactor::Error;

use super::transfer::for_each_piece;
use crate::Io;
use crate::pool::{BufferId, Pool};

/// Buffers of one channel: how many unaligned I/Os it has under way together.
const BUFFERS: u16 = 16;
/// Bytes in each; a multiple of every alignment.
const BUFFER_BYTES: usize = 64 << 10;

/// The buffers of a channel of at most `depth` I/Os.
pub(super) fn pool(purpose: &str, depth: usize) -> Result<Pool, Error> {
    Pool::new(purpose, BUFFERS, BUFFER_BYTES, depth)
}

/// The buffer's address, and how much of `io` after `done_bytes` goes through it next.
pub(super) fn next_piece(pool: &Pool, id: BufferId, io: &Io, done_bytes: u64) -> (*mut u8, usize) {
    (pool.buffer(id), pool.piece_bytes(io.len_bytes() - done_bytes))
}

/// Copies the next piece of a write into the buffer.
pub(super) fn fill(pool: &mut Pool, id: BufferId, io: &Io, done_bytes: u64) {
    let (mut buffer, len_bytes) = next_piece(pool, id, io, done_bytes);
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
pub(super) fn empty(pool: &mut Pool, id: BufferId, io: &Io, done_bytes: u64, read_bytes: usize) {
    let (mut buffer, len_bytes) = next_piece(pool, id, io, done_bytes);
    for_each_piece(io.segments(), done_bytes, len_bytes.min(read_bytes), |memory, count| {
        // SAFETY: as in `fill`, with the segments of a read, which are writable until it is reported.
        unsafe {
            std::ptr::copy_nonoverlapping(buffer, memory, count);
            buffer = buffer.add(count);
        }
    });
}
