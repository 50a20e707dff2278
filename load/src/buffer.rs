//! The memory of one slot, as words that a device may write at any time.
//!
//! Contract: no reference to the memory is ever made; each access is one volatile word.

use std::marker::PhantomData;

/// A run of 64-bit words shared with a device.
#[derive(Clone, Copy, Debug)]
pub struct Buffer<'a> {
    start: *mut u64,
    words: usize,
    borrowed: PhantomData<&'a ()>,
}

impl Buffer<'_> {
    /// The whole words of `[start, start + len_bytes)`.
    ///
    /// # Safety
    /// `start` must be 8-byte aligned, and the range mapped readable and writable for the lifetime of the result.
    #[must_use]
    pub unsafe fn new(start: *mut u8, len_bytes: usize) -> Self {
        debug_assert!(start.addr().is_multiple_of(8));
        Self { start: start.cast(), words: len_bytes / 8, borrowed: PhantomData }
    }

    /// How many words it has.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words
    }

    /// Reads a word.
    ///
    /// # Panics
    /// Beyond the end.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        assert!(index < self.words);
        // SAFETY: `new`'s caller promised `words` aligned, mapped words; the index was checked.
        unsafe { self.start.add(index).read_volatile() }
    }

    /// Writes a word.
    ///
    /// # Panics
    /// Beyond the end.
    #[inline]
    pub fn set(&self, index: usize, word: u64) {
        assert!(index < self.words);
        // SAFETY: as in `get`.
        unsafe { self.start.add(index).write_volatile(word) }
    }
}
