//! A request's descriptor chain, translated: its 16-byte header, mapped data segments with the readable ones first, and the
//! place of its status byte (sections 2.7.4, 5.2.6).
//!
//! ```text
//!   readable: [ header 16 | data ... ]   writable: [ data ... | status 1 ]     cut into descriptors in any way
//! ```
//! The rings walk their descriptors, each copied once, and hand them over one by one. What is wrong with a buffer is
//! *remembered* while the walk goes on, so that the status byte can be found and the request fails alone; what is wrong
//! with the chain's own structure ends the walk. (Requests of the usual shape never get here, see `blk/usual.rs`.)

use spinblk_bdev::{MAX_SEGMENTS, Segment};
use spinblk_reactor::BufId;

use crate::memory::{BufKey, CoreMemory};
use crate::virtqueue::Head;

/// Segments that a chain may have after translation: 126 of data, a header and a status in several pieces.
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

/// Bytes of a request's header.
pub(crate) const HEADER_BYTES: usize = 16;

/// A request's header (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// VIRTIO_BLK_T_*.
    pub(crate) kind: u32,
    /// Where it starts, in units of 512 bytes.
    pub(crate) sector: u64,
}

impl Header {
    /// From its bytes as two words in guest order; the upper half of the first one is reserved.
    #[inline]
    pub(crate) fn from_words([low, high]: [u64; 2]) -> Self {
        Self { kind: u64::from_le(low) as u32, sector: u64::from_le(high) }
    }
}

/// A translated chain, in place; made once per request slot and used again and again.
///
/// `repr(C)`, so that the first segment lies where a slot's own fields end.
#[repr(C)]
pub(crate) struct Chain {
    segments: [Segment; MAX],
    head: Head,
    /// Segments of data in all, and those that the device reads, which come first.
    count: usize,
    readable: usize,
    /// Data bytes that the device may read, and that it may write; the status byte counts until the chain is closed.
    bytes: [u64; 2],
    /// The registered buffers that hold all readable and all writable segments; known when the chain is closed.
    common: [BufKey; 2],
    status: *mut u8,
    fault: Option<ChainFault>,
    /// Whether the fault is one of structure.
    is_broken: bool,
    /// The header and how much of it was found.
    header: [u64; 2],
    header_bytes: usize,
    /// Where the last segment ends; null before the first one.
    end: *mut u8,
    /// What the last segment has in common with a neighbour that may join it.
    kind: SegmentKind,
    bufs: [BufKey; MAX],
}

/// Direction and registered buffer of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SegmentKind(u32);

impl SegmentKind {
    const NONE: Self = Self(u32::MAX);

    #[inline]
    fn new(buf: BufKey, writable: bool) -> Self {
        Self(buf.bits() << 1 | u32::from(writable))
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            head: Head::default(),
            count: 0,
            readable: 0,
            bytes: [0; 2],
            common: [BufKey::NONE; 2],
            status: std::ptr::null_mut(),
            is_broken: false,
            header: [0; 2],
            header_bytes: 0,
            end: std::ptr::null_mut(),
            kind: SegmentKind::NONE,
            fault: None,
            segments: [Segment::EMPTY; MAX],
            bufs: [BufKey::NONE; MAX],
        }
    }
}

impl Chain {
    /// Notes which places of the ring it takes.
    pub(crate) fn set_head(&mut self, head: Head) {
        self.head = head;
    }

    /// What the ring calls it.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Forgets the last chain.
    fn clear(&mut self) {
        self.is_broken = false;
        self.header_bytes = 0;
        self.count = 0;
        self.readable = 0;
        self.bytes = [0; 2];
        self.status = std::ptr::null_mut();
        self.end = std::ptr::null_mut();
        self.kind = SegmentKind::NONE;
        self.fault = None;
    }

    /// Starts anew: `walk` adds the buffers. Returns the header if all is well.
    #[inline(never)]
    pub(crate) fn fill(&mut self, walk: impl FnOnce(&mut Self) -> Result<(), ChainFault>) -> Option<Header> {
        self.clear();
        if let Err(fault) = walk(self) {
            self.fault = Some(fault);
            self.is_broken = true;
            return None;
        }
        self.close();
        let sound = self.fault.is_none() && self.header_bytes == HEADER_BYTES && !self.status.is_null();
        sound.then(|| Header::from_words(self.header))
    }

    /// The chain ends here: takes the status off the writable bytes and finds common buffers.
    fn close(&mut self) {
        if self.bytes[1] > 0 {
            // The last buffer to be placed was a writable one: readable buffers are refused after it.
            self.status = self.end.wrapping_sub(1);
            self.bytes[1] -= 1;
            if let Some(last) = self.segments.get_mut(self.count.wrapping_sub(1)) {
                last.truncate(last.len_bytes() - 1);
                self.count -= usize::from(last.len_bytes() == 0);
            }
        }
        let common = |bufs: &[BufKey]| match bufs {
            [first, rest @ ..] if rest.iter().all(|buf| buf == first) => *first,
            _ => BufKey::NONE,
        };
        let (readable, writable) = self.bufs[..self.count].split_at(self.readable);
        self.common = [common(readable), common(writable)];
    }

    /// Adds a buffer; it is cut where mappings end, and where the header ends.
    pub(crate) fn add(&mut self, memory: &mut CoreMemory, buffer: Buffer) {
        let Buffer { mut iova, len_bytes, writable } = buffer;
        let mut left = u64::from(len_bytes);
        if left == 0 {
            return self.note(ChainFault::Empty);
        }
        if !writable && self.bytes[1] > 0 {
            return self.note(ChainFault::Order);
        }
        while left > 0 && self.fault != Some(ChainFault::TooMany) {
            let Some(at) = memory.locate(iova) else { return self.note(ChainFault::Unmapped(iova)) };
            let mut len_bytes = left.min(at.len_bytes);
            if !writable && self.header_bytes < HEADER_BYTES {
                len_bytes = len_bytes.min((HEADER_BYTES - self.header_bytes) as u64);
                self.collect_header(at.host, len_bytes as usize);
            } else {
                self.place(at.host, len_bytes, at.buf, writable);
            }
            left -= len_bytes;
            // Past the top of the address space there is nothing, and nothing is mapped at its last byte.
            iova = iova.saturating_add(len_bytes);
        }
    }

    /// Takes the next bytes of a header that comes in pieces.
    fn collect_header(&mut self, from: *const u8, count: usize) {
        let mut bytes = [0; HEADER_BYTES];
        let (halves, _) = bytes.as_chunks_mut::<8>();
        halves.iter_mut().zip(self.header).for_each(|(half, word)| *half = word.to_ne_bytes());
        for (i, byte) in bytes.iter_mut().skip(self.header_bytes).take(count).enumerate() {
            // SAFETY: our caller found `count` bytes mapped at `from`.
            *byte = unsafe { from.add(i).read_volatile() };
        }
        let (halves, _) = bytes.as_chunks::<8>();
        self.header.iter_mut().zip(halves).for_each(|(word, half)| *word = u64::from_ne_bytes(*half));
        self.header_bytes += count;
    }

    fn place(&mut self, host: *mut u8, len_bytes: u64, buf: BufKey, writable: bool) {
        let kind = SegmentKind::new(buf, writable);
        let joins = host == self.end && kind == self.kind;
        self.bytes[usize::from(writable)] += len_bytes;
        self.end = host.wrapping_add(len_bytes as usize);
        self.kind = kind;
        if joins {
            // Neighbours in memory: one segment, so that more requests go as one fixed buffer.
            if let Some(last) = self.segments.get_mut(self.count.wrapping_sub(1)) {
                *last = Segment::new(last.as_ptr(), last.len_bytes() + len_bytes as usize);
            }
            return;
        }
        match (self.segments.get_mut(self.count), self.bufs.get_mut(self.count)) {
            (Some(segment), Some(slot)) => {
                *segment = Segment::new(host, len_bytes as usize);
                *slot = buf;
            }
            _ => return self.note(ChainFault::TooMany),
        }
        self.count += 1;
        self.readable += usize::from(!writable);
    }

    /// Remembers what is wrong with a buffer.
    #[cold]
    fn note(&mut self, fault: ChainFault) {
        // The first one tells most.
        self.fault = self.fault.or(Some(fault));
    }

    /// Makes room for the one segment of a request that needs no chain.
    #[inline]
    pub(crate) fn one_segment(&mut self, segment: Segment) -> &[Segment] {
        self.segments[0] = segment;
        &self.segments[..1]
    }

    /// What is wrong with it, if anything.
    #[must_use]
    pub(crate) fn fault(&self) -> Option<ChainFault> {
        self.fault
    }

    /// Whether its structure is at fault, so that nothing of it may be used; asked of a chain with a fault.
    #[must_use]
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Data bytes that the device may read: those after the header.
    #[must_use]
    pub(crate) fn readable_bytes(&self) -> u64 {
        self.bytes[0]
    }

    /// Data bytes that the device may write: those before the status.
    #[must_use]
    pub(crate) fn writable_bytes(&self) -> u64 {
        self.bytes[1]
    }

    /// Bytes that count as written when nothing but the status is (2.7.8.2): the status if it is all there is to write.
    #[must_use]
    pub(crate) fn lone_status_bytes(&self) -> u32 {
        u32::from(self.readable == self.count && self.fault.is_none() && !self.status.is_null())
    }

    /// The last device-writable byte: where virtio-blk wants the status (5.2.6). Null if there is none.
    #[must_use]
    pub(crate) fn status(&self) -> *mut u8 {
        self.status
    }

    /// Copies up to `out.len()` readable data bytes; returns how many there were.
    pub(crate) fn copy_readable(&self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in &self.segments[..self.readable] {
            for at in 0..segment.len_bytes() {
                let Some(byte) = out.get_mut(done) else { return done };
                // SAFETY: the segment is mapped (translated from a live map), and `at` is within
                // it. The guest may write at the same time: the copy then holds some mixture, which is checked like any
                // input, and each byte is read once.
                *byte = unsafe { segment.as_ptr().add(at).read_volatile() };
                done += 1;
            }
        }
        done
    }

    /// The readable data segments, and the registered buffer that holds them all.
    #[must_use]
    pub(crate) fn readable(&self) -> (&[Segment], Option<BufId>) {
        (&self.segments[..self.readable], self.common[0].buf())
    }

    /// The writable data segments, and the registered buffer that holds them all.
    #[must_use]
    pub(crate) fn writable(&self) -> (&[Segment], Option<BufId>) {
        (&self.segments[..self.count][self.readable..], self.common[1].buf())
    }
}

/// A buffer as a descriptor names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) iova: u64,
    pub(crate) len_bytes: u32,
    pub(crate) writable: bool,
}
