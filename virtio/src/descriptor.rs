//! Descriptors, copied out of guest memory: each is read once, and only the copy is looked at.

use crate::chain::{Buffer, ChainFault, MAX_SEGMENTS};
use crate::memory::CoreMemory;

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

/// Sixteen bytes, in the order of their addresses.
pub(crate) trait FromWords {
    /// Takes a descriptor apart that was read as two little-endian words.
    fn from_words(low: u64, high: u64) -> Self;
}

impl FromWords for Descriptor {
    #[inline]
    fn from_words(low: u64, high: u64) -> Self {
        Self { iova: low, len_bytes: high as u32, flags: (high >> 32) as u16, next: (high >> 48) as u16 }
    }
}

impl FromWords for PackedDescriptor {
    #[inline]
    fn from_words(low: u64, high: u64) -> Self {
        Self { iova: low, len_bytes: high as u32, id: (high >> 32) as u16, flags: (high >> 48) as u16 }
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
        let (low, high) = if at.addr().is_multiple_of(8) {
            let words: *const u64 = at.cast();
            // SAFETY: index < entries, so 16 bytes at `at` are mapped (`new`'s caller), and aligned for u64 (checked).
            unsafe { (words.read_volatile(), words.add(1).read_volatile()) }
        } else {
            // SAFETY: as above, without the alignment.
            unsafe { read_crooked(at) }
        };
        Some(D::from_words(u64::from_le(low), u64::from_le(high)))
    }

    /// Copies the three descriptors from `index` on; `None` when they are not all in the table, or crooked.
    #[inline(always)]
    pub(crate) fn read_three<D: FromWords>(self, index: u16) -> Option<[D; 3]> {
        let at = self.start.wrapping_add(usize::from(index) * DESC_BYTES as usize);
        if u32::from(index) + 3 > self.entries || !at.addr().is_multiple_of(8) {
            return None;
        }
        let words: *const u64 = at.cast();
        // SAFETY: 48 bytes at `at` are mapped (`new`'s caller), and aligned for u64 (checked).
        let words = [0, 1, 2, 3, 4, 5].map(|i| u64::from_le(unsafe { words.add(i).read_volatile() }));
        let [a, b, c, d, e, f] = words;
        Some([D::from_words(a, b), D::from_words(c, d), D::from_words(e, f)])
    }
}

/// Only indirect tables can be this crooked; no driver that we know makes one.
///
/// # Safety
/// 16 bytes at `at` must be mapped readable.
#[cold]
unsafe fn read_crooked(at: *const u8) -> (u64, u64) {
    let mut words = [[0u8; 8]; 2];
    for (i, byte) in words.as_flattened_mut().iter_mut().enumerate() {
        // SAFETY: 16 bytes at `at` are mapped (our caller).
        *byte = unsafe { at.add(i).read_volatile() };
    }
    (u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1]))
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

/// The indirect table of a request of the usual shape: three descriptors, in the mapping that was hit last.
#[inline]
pub(crate) fn usual_table(memory: &CoreMemory, iova: u64, len_bytes: u32) -> Option<Table> {
    const LEN_BYTES: u64 = 3 * DESC_BYTES;
    let at = memory
        .locate_again(iova)
        .filter(|at| u64::from(len_bytes) == LEN_BYTES && at.len_bytes >= LEN_BYTES)?;
    // SAFETY: as in `indirect_table`.
    Some(unsafe { Table::new(at.host, 3) })
}

/// Descriptors that a walk looks at before it gives up: no request needs more than it may have segments.
pub(crate) const MAX_WALK: u32 = MAX_SEGMENTS as u32 + 1;
