//! Walking a descriptor chain: each descriptor copied once, checked, translated (sections 2.7.5, 2.7.5.3).
//!
//! The result is a [`Chain`]: mapped segments, readable ones first. What is wrong with a buffer is *remembered* while the
//! walk goes on, so that the request's status byte can be found and the request fails alone; what is wrong with the
//! chain's own structure ends the walk.

use spinblk_bdev::Segment;
use spinblk_reactor::BufId;

use crate::memory::CoreMemory;
use crate::split::{Descriptor, SplitQueue, common_buf};

/// Segments that a chain may have after translation: 126 of data, a header and a status in several pieces.
pub const MAX_SEGMENTS: usize = 144;
const MAX: usize = MAX_SEGMENTS;

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// A buffer (or indirect table) at an IOVA that is not mapped.
    #[error("IOVA {0:#x} is not mapped")]
    Unmapped(u64),
    /// `next` beyond the table.
    #[error("descriptor index {0} is beyond the table")]
    BadIndex(u16),
    /// More descriptors than the table has: a loop.
    #[error("the chain loops")]
    Loop,
    /// An indirect descriptor inside an indirect table, or one with NEXT set.
    #[error("an indirect descriptor where none may be")]
    BadIndirect,
    /// An indirect table that is empty or not a multiple of 16 bytes.
    #[error("an indirect table of {0} bytes")]
    BadIndirectLen(u32),
    /// A device-readable buffer after a device-writable one.
    #[error("a readable buffer after a writable one")]
    Order,
    /// A buffer of no bytes.
    #[error("an empty buffer")]
    Empty,
    /// More than [`MAX_SEGMENTS`] pieces.
    #[error("more than {MAX_SEGMENTS} segments")]
    TooMany,
}

/// A translated chain, in place; made once per request slot and used again and again.
pub(crate) struct Chain {
    segments: [Segment; MAX],
    bufs: [Option<BufId>; MAX],
    readable: usize,
    count: usize,
    writable_bytes: u64,
    fault: Option<ChainFault>,
    /// The last device-writable byte so far.
    status: Option<*mut u8>,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            segments: [Segment::EMPTY; MAX],
            bufs: [None; MAX],
            readable: 0,
            count: 0,
            writable_bytes: 0,
            fault: None,
            status: None,
        }
    }
}

impl Chain {
    /// Walks the chain that begins at `head`.
    ///
    /// # Errors
    /// A fault of structure: the walk could not be finished, and nothing of the chain may be used.
    /// Faults of single buffers are in [`fault`](Self::fault).
    pub(crate) fn walk(
        &mut self,
        queue: &SplitQueue,
        memory: &mut CoreMemory,
        head: u16,
    ) -> Result<(), ChainFault> {
        self.readable = 0;
        self.count = 0;
        self.writable_bytes = 0;
        self.fault = None;
        self.status = None;
        let mut index = head;
        // No request needs more descriptors than segments, and each makes one: more work than that is refused.
        for _ in 0..queue.size().min(MAX as u16 + 1) {
            let desc = queue.descriptor(index).ok_or(ChainFault::BadIndex(index))?;
            if desc.flags & Descriptor::INDIRECT != 0 {
                if desc.flags & Descriptor::NEXT != 0 {
                    return Err(ChainFault::BadIndirect);
                }
                return self.walk_table(memory, desc);
            }
            self.add(memory, desc);
            if desc.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = desc.next;
        }
        Err(if usize::from(queue.size()) > MAX { ChainFault::TooMany } else { ChainFault::Loop })
    }

    fn walk_table(&mut self, memory: &mut CoreMemory, table: Descriptor) -> Result<(), ChainFault> {
        let len_bytes = table.len_bytes;
        if len_bytes == 0 || !len_bytes.is_multiple_of(16) {
            return Err(ChainFault::BadIndirectLen(len_bytes));
        }
        // A table that straddles two mappings is legal on paper; no driver makes one, and none is served.
        let host =
            memory.contiguous(table.iova, u64::from(len_bytes)).ok_or(ChainFault::Unmapped(table.iova))?;
        // `next` has 16 bits: more entries could not be named.
        let entries = (len_bytes / 16).min(1 << 16);
        let mut index = 0u16;
        // The bound on work: no request needs more descriptors than segments, and each descriptor makes one.
        for _ in 0..entries.min(MAX as u32 + 1) {
            if u32::from(index) >= entries {
                return Err(ChainFault::BadIndex(index));
            }
            // SAFETY: `contiguous` found 16 * entries bytes mapped at `host`, and index < entries.
            let desc = unsafe { Descriptor::read(host, index) };
            if desc.flags & Descriptor::INDIRECT != 0 {
                return Err(ChainFault::BadIndirect);
            }
            self.add(memory, desc);
            if desc.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = desc.next;
        }
        Err(if entries as usize > MAX { ChainFault::TooMany } else { ChainFault::Loop })
    }

    /// Adds one buffer. The road of nearly all: it lies in one mapping, the one that was hit last.
    #[inline]
    fn add(&mut self, memory: &mut CoreMemory, desc: Descriptor) {
        let writable = desc.flags & Descriptor::WRITE != 0;
        let len_bytes = u64::from(desc.len_bytes);
        match memory.locate(desc.iova) {
            // An empty buffer wraps around to a very long one.
            Some(at) if len_bytes.wrapping_sub(1) < at.len_bytes && (writable || self.status.is_none()) => {
                self.place(at.host, len_bytes, at.buf, writable);
            }
            _ => self.add_slowly(memory, desc, writable),
        }
    }

    /// Adds a buffer that is faulty or spans mappings: cut where they end.
    #[cold]
    #[inline(never)]
    fn add_slowly(&mut self, memory: &mut CoreMemory, desc: Descriptor, writable: bool) {
        if desc.len_bytes == 0 {
            return self.note(ChainFault::Empty);
        }
        if !writable && self.status.is_some() {
            return self.note(ChainFault::Order);
        }
        let (mut iova, mut left) = (desc.iova, u64::from(desc.len_bytes));
        while left > 0 && self.fault != Some(ChainFault::TooMany) {
            let Some(at) = memory.locate(iova) else { return self.note(ChainFault::Unmapped(iova)) };
            let len_bytes = left.min(at.len_bytes);
            self.place(at.host, len_bytes, at.buf, writable);
            left -= len_bytes;
            // Past the top of the address space there is nothing, and nothing is mapped at its last byte.
            iova = iova.saturating_add(len_bytes);
        }
    }

    #[inline]
    fn place(&mut self, host: *mut u8, len_bytes: u64, buf: Option<BufId>, writable: bool) {
        if writable {
            self.status = Some(host.wrapping_add(len_bytes as usize - 1));
            self.writable_bytes += len_bytes;
        }
        self.push(host, len_bytes as usize, buf, writable);
    }

    #[inline]
    fn push(&mut self, host: *mut u8, len_bytes: usize, buf: Option<BufId>, writable: bool) {
        // Neighbours in memory, of the same direction: one segment, so that more requests go as one fixed buffer.
        let same_direction = self.count > 0 && (self.count > self.readable) == writable;
        if same_direction {
            let last = &mut self.segments[self.count - 1];
            if last.as_ptr().wrapping_add(last.len_bytes()) == host && self.bufs[self.count - 1] == buf {
                *last = Segment::new(last.as_ptr(), last.len_bytes() + len_bytes);
                return;
            }
        }
        if self.count == MAX {
            return self.note(ChainFault::TooMany);
        }
        self.segments[self.count] = Segment::new(host, len_bytes);
        self.bufs[self.count] = buf;
        self.count += 1;
        if !writable {
            self.readable = self.count;
        }
    }

    #[inline]
    fn note(&mut self, fault: ChainFault) {
        // The first one tells most.
        self.fault = self.fault.or(Some(fault));
    }

    /// What is wrong with one of its buffers, if anything.
    #[inline]
    #[must_use]
    pub(crate) fn fault(&self) -> Option<ChainFault> {
        self.fault
    }

    /// Bytes that the device may write.
    #[inline]
    #[must_use]
    pub(crate) fn writable_bytes(&self) -> u64 {
        self.writable_bytes
    }

    /// The last device-writable byte: where virtio-blk wants the status (5.2.6).
    #[inline]
    #[must_use]
    pub(crate) fn last_writable_byte(&self) -> Option<*mut u8> {
        self.status
    }

    /// Takes `out.len()` bytes off the front of the readable part, copying them; false when there are not so many.
    #[inline]
    pub(crate) fn take_readable(&mut self, cursor: &mut Cursor, out: &mut [u8]) -> bool {
        let mut done = 0;
        while done < out.len() {
            if cursor.0 >= self.readable {
                return false;
            }
            let segment = &mut self.segments[cursor.0];
            let count = segment.len_bytes().min(out.len() - done);
            // SAFETY: the segment is mapped (translated by `add` from a live map) and `count` bytes long at least. The
            // guest may write at the same time: the copy then holds some mixture, which is checked like any input,
            // and each byte is read once.
            unsafe { copy_once(segment.as_ptr(), &mut out[done..done + count]) };
            segment.advance(count);
            done += count;
            if segment.len_bytes() == 0 {
                cursor.0 += 1;
            }
        }
        true
    }

    /// The readable segments from the cursor on, and the registered buffer that holds them all.
    #[inline]
    #[must_use]
    pub(crate) fn readable_from(&self, cursor: &Cursor) -> (&[Segment], Option<BufId>) {
        self.part(cursor.0.min(self.readable), self.readable)
    }

    /// The writable segments less the status byte, and the registered buffer that holds them all. Cuts the status byte
    /// off, so call it once.
    #[inline]
    #[must_use]
    pub(crate) fn writable_data(&mut self) -> (&[Segment], Option<BufId>) {
        let mut end = self.count;
        if end > self.readable {
            let last = &mut self.segments[end - 1];
            last.truncate(last.len_bytes() - 1);
            if last.len_bytes() == 0 {
                end -= 1;
            }
        }
        self.part(self.readable, end)
    }

    #[inline]
    fn part(&self, start: usize, end: usize) -> (&[Segment], Option<BufId>) {
        let segments = &self.segments[start..end];
        let mut bufs = self.bufs[start..end].iter().copied();
        let first = bufs.next().flatten();
        (segments, bufs.fold(first, common_buf))
    }
}

/// How far the readable part was consumed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor(usize);

/// Copies guest memory, reading each byte once.
///
/// # Safety
/// `from` must be mapped readable for `out.len()` bytes.
#[inline]
unsafe fn copy_once(from: *const u8, out: &mut [u8]) {
    if from.addr().is_multiple_of(8) {
        let (words, _) = out.as_chunks_mut::<8>();
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: within the mapped range (our caller), aligned (checked).
            *word = unsafe { from.cast::<u64>().add(i).read_volatile() }.to_ne_bytes();
        }
        let done = out.len() & !7;
        for (i, byte) in out.iter_mut().enumerate().skip(done) {
            // SAFETY: within the mapped range (our caller).
            *byte = unsafe { from.add(i).read_volatile() };
        }
    } else {
        for (i, byte) in out.iter_mut().enumerate() {
            // SAFETY: within the mapped range (our caller).
            *byte = unsafe { from.add(i).read_volatile() };
        }
    }
}
