//! A channel's own aligned memory, in buffers of one size: for I/O that must not, or cannot, use the caller's memory.
//!
//! ```text
//!   acquire(tag) ─► a free buffer, the last one given back first: it is still in the cache
//!                └► none: the tag waits; release() hands the buffer on to the tag that has waited longest
//! ```
//!
//! An I/O holds one buffer from start to end and goes through it piece by piece, so it never waits for a second one
//! and no two can block each other. Everything is allocated when the pool is made. Whoever may be dropped with
//! operations in flight that name a buffer calls [`Pool::leak`] then.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;

use spinblk_reactor::{BufId, Error, Hugepages, Memory, Ring};

/// Names a buffer that an I/O holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(u16);

impl BufferId {
    /// A number below the pool's count, for what goes with a buffer.
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Some buffers, and the tags that wait for one.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: ManuallyDrop<Memory>,
    leaked: bool,
    buffer_bytes: usize,
    buf: Option<BufId>,
    free: Vec<BufferId>,
    waiting: VecDeque<u32>,
}

impl Pool {
    /// `count` buffers of `buffer_bytes`, a multiple of every alignment, for a channel of at most `depth` I/Os.
    /// `purpose` names the user in messages.
    pub(crate) fn new(purpose: &str, count: u16, buffer_bytes: usize, depth: usize) -> Result<Self, Error> {
        Ok(Self {
            memory: ManuallyDrop::new(Memory::new(
                usize::from(count) * buffer_bytes,
                Hugepages::Off,
                purpose,
            )?),
            leaked: false,
            buffer_bytes,
            buf: None,
            free: (0..count).rev().map(BufferId).collect(),
            waiting: VecDeque::with_capacity(depth),
        })
    }

    /// Registers the memory with the ring, if the ring takes it, until [`Pool::unregister`].
    pub(crate) fn register(&mut self, ring: &mut Ring) {
        if self.buf.is_none() {
            // SAFETY: the memory is mapped until the pool is dropped, and for ever if `unregister` did not come first.
            self.buf = unsafe { ring.acquire_buffer(self.memory.as_ptr(), self.memory.len_bytes()) };
        }
    }

    /// Takes the memory out of the ring's table again.
    pub(crate) fn unregister(&mut self, ring: &mut Ring) {
        if let Some(buf) = self.buf.take() {
            ring.release_buffer(buf);
        }
    }

    /// The registered buffer that all of the pool lies in, if it is registered.
    #[inline]
    pub(crate) fn buf(&self) -> Option<BufId> {
        self.buf
    }

    /// A buffer for `tag`, now or (`None`) once [`Pool::release`] names it.
    #[inline]
    pub(crate) fn acquire(&mut self, tag: u32) -> Option<BufferId> {
        let id = self.free.pop();
        if id.is_none() {
            self.waiting.push_back(tag);
        }
        id
    }

    /// Takes a buffer back. The longest-waiting tag gets it, if one waits.
    #[inline]
    pub(crate) fn release(&mut self, id: BufferId) -> Option<(u32, BufferId)> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.free.push(id);
        }
        next.map(|tag| (tag, id))
    }

    /// A buffer's first byte.
    #[inline]
    pub(crate) fn buffer(&self, id: BufferId) -> *mut u8 {
        // SAFETY: ids below the count are the only ones made, and the memory holds that many buffers.
        unsafe { self.memory.as_ptr().add(id.index() * self.buffer_bytes) }
    }

    /// Keeps the memory mapped for ever: the kernel may still use it.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    /// How much goes through a buffer next when `rest_bytes` are left.
    #[inline]
    pub(crate) fn piece_bytes(&self, rest_bytes: u64) -> usize {
        rest_bytes.min(self.buffer_bytes as u64) as usize
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What a ring has registered it may yet find by its address.
        if !self.leaked && self.buf.is_none() {
            // SAFETY: dropped here only, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_go_round_last_in_first_out_and_waiters_in_order() {
        let mut pool = Pool::new("test", 2, 4096, 8).unwrap();
        let first = pool.acquire(0).unwrap();
        let second = pool.acquire(1).unwrap();
        assert_eq!(pool.buffer(second).addr().abs_diff(pool.buffer(first).addr()), 4096);
        assert_eq!((pool.acquire(7), pool.acquire(3)), (None, None));
        assert_eq!(pool.release(first), Some((7, first)));
        assert_eq!(pool.release(second), Some((3, second)));
        assert_eq!((pool.release(first), pool.release(second)), (None, None));
        assert_eq!(pool.acquire(4), Some(second));
    }

    #[test]
    fn a_piece_is_a_buffer_at_most() {
        let pool = Pool::new("test", 1, 4096, 1).unwrap();
        assert_eq!((pool.piece_bytes(512), pool.piece_bytes(u64::MAX)), (512, 4096));
    }

    #[test]
    fn the_pool_is_one_registered_buffer_while_the_ring_has_it() {
        let mut ring = Ring::new(8).unwrap();
        let mut pool = Pool::new("test", 2, 4096, 1).unwrap();
        assert_eq!(pool.buf(), None);
        pool.register(&mut ring);
        assert!(pool.buf().is_some());
        pool.unregister(&mut ring);
        assert_eq!(pool.buf(), None);
    }

    #[test]
    fn memory_that_the_kernel_may_know_of_stays_mapped() {
        let mut ring = Ring::new(8).unwrap();
        for leak in [false, true] {
            let mut pool = Pool::new("test", 1, 4096, 1).unwrap();
            if leak {
                pool.leak();
            } else {
                pool.register(&mut ring);
            }
            let (start, kept) = (pool.memory.as_ptr(), leak || pool.buf().is_some());
            drop(pool);
            // SAFETY: msync of a clean mapping does nothing; where nothing is mapped it says so.
            let mapped = unsafe { libc::msync(start.cast(), 4096, libc::MS_ASYNC) } == 0;
            assert!(mapped || !kept, "leak {leak}");
        }
    }
}
