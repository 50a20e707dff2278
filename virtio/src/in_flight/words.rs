//! The bytes of a log, as words of shared memory.
//!
//! Stores have Release ordering: none may move before an earlier one (see the module above). Loads are relaxed; each
//! value is read once.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A mapped region, 8-byte aligned.
pub(super) struct Words {
    start: *mut u8,
    len_bytes: usize,
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: an address and a length of memory that lives as long as `_keep`, which is itself Send; it is reached through
// atomics only.
unsafe impl Send for Words {}

/// One load and one store of a width.
macro_rules! word {
    ($load:ident, $store:ident, $atomic:ty, $word:ty) => {
        #[inline]
        pub(super) fn $load(&self, at: usize) -> $word {
            debug_assert!(at + size_of::<$word>() <= self.len_bytes && at.is_multiple_of(size_of::<$word>()));
            // SAFETY: callers pass offsets of fields of the layout that the region was found long enough for, with
            // indices that they checked; `start` is 8-byte aligned and every field lies at a multiple of its size. An
            // atomic is the one kind of reference that others may store behind.
            unsafe { <$atomic>::from_ptr(self.start.add(at).cast()) }.load(Ordering::Relaxed)
        }

        #[inline]
        pub(super) fn $store(&self, at: usize, value: $word) {
            debug_assert!(at + size_of::<$word>() <= self.len_bytes && at.is_multiple_of(size_of::<$word>()));
            // SAFETY: as above.
            unsafe { <$atomic>::from_ptr(self.start.add(at).cast()) }.store(value, Ordering::Release);
            #[cfg(test)]
            super::tests::stored(self.start, self.len_bytes);
        }
    };
}

impl Words {
    /// # Safety
    /// `[start, start + len_bytes)` must be mapped writable for as long as `keep` lives, without Rust references into it,
    /// and `start` must be a multiple of 8.
    pub(super) unsafe fn new(start: *mut u8, len_bytes: usize, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { start, len_bytes, _keep: keep }
    }

    word!(load_u8, store_u8, AtomicU8, u8);
    word!(load_u16, store_u16, AtomicU16, u16);
    word!(load_u32, store_u32, AtomicU32, u32);
    word!(load_u64, store_u64, AtomicU64, u64);
}
