//! Descriptors, copied out of guest memory: each is read once, and only the copy is looked at.

use crate::chain::{Buffer, ChainFault};
use crate::memory::CoreMemory;
use spinblk_bdev::MAX_SEGMENTS;

/// Size of a descriptor of either format.
pub(crate) const DESC_BYTES: u64 = 16;

/// A descriptor of a split ring (2.7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// IOVA of the buffer.
    pub(crate) iova: u64,
    /// Its length.
    pub(crate) len_bytes: u32,
    /// NEXT, WRITE, INDIRECT.
    pub(crate) flags: u16,
    /// Next descriptor, with NEXT.
    pub(crate) next: u16,
}

impl Descriptor {
    /// The chain goes on.
    pub(crate) const NEXT: u16 = 1;
    /// The device writes into the buffer.
    pub(crate) const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub(crate) const INDIRECT: u16 = 4;

    #[inline]
    pub(crate) fn buffer(self) -> Buffer {
        let Self { iova, len_bytes, flags, .. } = self;
        Buffer { iova, len_bytes, writable: flags & Self::WRITE != 0 }
    }

    /// Flags and successor in one word.
    #[inline]
    pub(crate) fn link(self) -> u32 {
        u32::from(self.flags) | u32::from(self.next) << 16
    }
}

/// A descriptor of a packed ring (2.8.13); its flags are those of a split one, and AVAIL and USED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedDescriptor {
    /// IOVA of the buffer.
    pub(crate) iova: u64,
    /// Its length.
    pub(crate) len_bytes: u32,
    /// The driver's name for the chain; that of the last descriptor counts.
    pub(crate) id: u16,
    /// NEXT, WRITE, INDIRECT, AVAIL, USED.
    pub(crate) flags: u16,
}

impl PackedDescriptor {
    #[inline]
    pub(crate) fn buffer(self) -> Buffer {
        let Self { iova, len_bytes, flags, .. } = self;
        Buffer { iova, len_bytes, writable: flags & Descriptor::WRITE != 0 }
    }
}

/// Sixteen bytes as both formats cut them.
pub(crate) trait FromWords {
    /// Takes a descriptor apart that was read as three little-endian words: address, length, and two halves.
    fn from_words(iova: u64, len_bytes: u32, halves: u32) -> Self;
}

impl FromWords for Descriptor {
    #[inline]
    fn from_words(iova: u64, len_bytes: u32, halves: u32) -> Self {
        Self { iova, len_bytes, flags: halves as u16, next: (halves >> 16) as u16 }
    }
}

impl FromWords for PackedDescriptor {
    #[inline]
    fn from_words(iova: u64, len_bytes: u32, halves: u32) -> Self {
        Self { iova, len_bytes, id: halves as u16, flags: (halves >> 16) as u16 }
    }
}

/// A table of descriptors in guest memory.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    start: *const u8,
    entries: u32,
}

impl Table {
    /// The table of `entries` descriptors at `start`.
    ///
    /// # Safety
    /// They must be mapped readable for as long as the table is used.
    #[inline]
    pub(crate) unsafe fn new(start: *const u8, entries: u32) -> Self {
        Self { start, entries }
    }

    #[inline]
    pub(crate) fn entries(self) -> u32 {
        self.entries
    }

    /// Copies descriptor `index`, reading each byte once; `None` beyond the table.
    #[inline]
    pub(crate) fn read<D: FromWords>(self, index: u32) -> Option<D> {
        if index >= self.entries {
            return None;
        }
        let at = self.start.wrapping_add(index as usize * DESC_BYTES as usize);
        if at.addr().is_multiple_of(8) {
            // SAFETY: index < entries, so 16 bytes at `at` are mapped (`new`'s caller); they are aligned for u64 (checked).
            Some(unsafe { read_straight(at) })
        } else {
            // SAFETY: as above, without the alignment.
            Some(unsafe { read_crooked(at) })
        }
    }

    /// Copies the three descriptors from `index` on; `None` when they are not all in the table, or crooked.
    #[inline(always)]
    pub(crate) fn read_three<D: FromWords>(self, index: u16) -> Option<[D; 3]> {
        let at = self.start.wrapping_add(usize::from(index) * DESC_BYTES as usize);
        if u32::from(index) + 3 > self.entries || !at.addr().is_multiple_of(8) {
            return None;
        }
        // SAFETY: 48 bytes at `at` are mapped (`new`'s caller), and aligned for u64 (checked).
        Some([0, 16, 32].map(|offset| unsafe { read_straight(at.add(offset)) }))
    }
}

/// # Safety
/// 16 bytes at `at` must be mapped readable, and aligned to 8 bytes.
#[inline(always)]
unsafe fn read_straight<D: FromWords>(at: *const u8) -> D {
    // SAFETY: our caller's contract; the guest may write at the same time, so each word is read once, volatile.
    let (iova, len_bytes, halves) = unsafe {
        let words: *const u32 = at.cast();
        (at.cast::<u64>().read_volatile(), words.add(2).read_volatile(), words.add(3).read_volatile())
    };
    D::from_words(u64::from_le(iova), u32::from_le(len_bytes), u32::from_le(halves))
}

/// Only indirect tables can be this crooked; no driver that we know makes one.
///
/// # Safety
/// 16 bytes at `at` must be mapped readable.
#[cold]
unsafe fn read_crooked<D: FromWords>(at: *const u8) -> D {
    let word = |offset: usize| {
        (0..4).rev().fold(0, |word, i| {
            // SAFETY: 16 bytes at `at` are mapped (our caller), and offset + i is below that.
            word << 8 | u32::from(unsafe { at.add(offset + i).read_volatile() })
        })
    };
    D::from_words(u64::from(word(0)) | u64::from(word(4)) << 32, word(8), word(12))
}

/// Finds the table that an indirect descriptor points to (2.7.5.3, 2.8.7).
///
/// # Errors
/// [`ChainFault::BadIndirectLen`], and [`ChainFault::Unmapped`] also for a table that straddles two mappings: legal on
/// paper, but no driver makes one.
#[inline]
pub(crate) fn indirect_table(
    memory: &mut CoreMemory,
    iova: u64,
    len_bytes: u32,
) -> Result<Table, ChainFault> {
    if len_bytes == 0 || !len_bytes.is_multiple_of(DESC_BYTES as u32) {
        return Err(ChainFault::BadIndirectLen(len_bytes));
    }
    let start = memory.contiguous(iova, len_bytes.into()).ok_or(ChainFault::Unmapped(iova))?;
    // SAFETY: `contiguous` found `len_bytes` mapped at `start`; the map lives while `memory` does, and tables are not
    // kept longer than the walk of one chain.
    Ok(unsafe { Table::new(start, len_bytes / DESC_BYTES as u32) })
}

/// The indirect table of a request of the usual shape: three descriptors.
#[inline]
pub(crate) fn usual_table(memory: &CoreMemory, iova: u64, len_bytes: u32) -> Option<Table> {
    const LEN_BYTES: u64 = 3 * DESC_BYTES;
    if u64::from(len_bytes) != LEN_BYTES {
        return None;
    }
    let start = memory.find(iova, LEN_BYTES)?;
    // SAFETY: as in `indirect_table`.
    Some(unsafe { Table::new(start.as_ptr(), 3) })
}

/// Descriptors that a walk looks at before it gives up: no request needs more than it may have segments.
pub(crate) const MAX_WALK: u32 = MAX_SEGMENTS as u32 + 1;
