//! The memory that a driver here shares with its device: pages of words that both sides may change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64};

use spinblk_virtio::Region;

pub(crate) const PAGE_BYTES: usize = 4096;

#[repr(C, align(4096))]
struct Page([AtomicU64; PAGE_BYTES / 8]);

/// Zeroed pages.
pub(crate) struct Arena(Box<[Page]>);

impl Arena {
    pub(crate) fn new(pages: usize) -> Arc<Self> {
        let page = |_| Page(std::array::from_fn(|_| AtomicU64::new(0)));
        Arc::new(Self((0..pages).map(page).collect()))
    }

    /// The word at a multiple of 8.
    #[inline]
    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        &self.0[offset / PAGE_BYTES].0[offset % PAGE_BYTES / 8]
    }

    /// The word at a multiple of 2.
    #[inline]
    pub(crate) fn word16(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2));
        let word = self.word64(offset);
        // SAFETY: two aligned bytes inside a word that is borrowed as an atomic for as long as the result is.
        unsafe { AtomicU16::from_ptr(word.as_ptr().cast::<u16>().add(offset % 8 / 2)) }
    }

    /// Any byte.
    #[inline]
    pub(crate) fn byte(&self, offset: usize) -> &AtomicU8 {
        let word = self.word64(offset);
        // SAFETY: a byte inside a word that is borrowed as an atomic for as long as the result is.
        unsafe { AtomicU8::from_ptr(word.as_ptr().cast::<u8>().add(offset % 8)) }
    }

    /// Some of its pages as a region of the device's address space.
    ///
    /// # Panics
    /// When it has not so many pages.
    pub(crate) fn region(self: &Arc<Self>, iova: u64, pages: std::ops::Range<usize>) -> Region {
        let pages = &self.0[pages];
        let len_bytes = size_of_val(pages) as u64;
        let host = pages.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: `pages` is `len_bytes` of memory that lives as long as the `Arc` handed over, and consists of atomics
        // alone, behind which anyone may write.
        unsafe { Region::new(iova, len_bytes, host, true, self.clone()) }
    }
}
