//! The split virtqueue, device side (section 2.7).
//!
//! # Memory ordering
//!
//! | step | ordering | why |
//! |---|---|---|
//! | load avail.idx | Acquire | pairs with the driver's release of idx: the ring entries and descriptors below it are visible |
//! | store used.idx | Release | the data, status bytes and used entries are visible to whoever sees the new idx |
//! | used.idx, then load used_event or avail.flags | SeqCst fence between | the driver stores used_event, fences and re-reads used.idx; we store used.idx, fence and read used_event: one of the two sees the other's store, so no interrupt is lost (2.7.7.2, 2.7.10) |
//! | descriptors, avail entries | volatile | the driver may change them at any time; each is read once into a copy |
//!
//! # Notifications
//!
//! The device polls, so the driver is told never to kick: with EVENT_IDX by an avail_event that it has passed
//! already (moved along before 16-bit indices wrap around to it), else by NO_NOTIFY in used.flags.

use std::sync::atomic::{AtomicU16, Ordering, fence};

use spinblk_reactor::BufId;

use crate::QueueError;
use crate::memory::CoreMemory;

const DESC_BYTES: u64 = 16;
/// avail.flags: the driver wants no interrupt (2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// used.flags: the device wants no kick (2.7.8).
const USED_F_NO_NOTIFY: u16 = 1;
/// avail_event is moved along when the ring has run this far past it.
const AVAIL_EVENT_STRIDE: u16 = 0x4000;

/// Where the driver put a queue, as IOVAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, 16-byte aligned.
    pub desc: u64,
    /// Avail ring ("driver area"), 2-byte aligned.
    pub avail: u64,
    /// Used ring ("device area"), 4-byte aligned.
    pub used: u64,
}

/// How a queue is set up: what the driver chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Where its parts are.
    pub addresses: RingAddresses,
    /// Entries, a power of two.
    pub size: u16,
    /// The avail index to start at; 0 after a reset.
    pub next_avail: u16,
    /// Whether EVENT_IDX was negotiated.
    pub event_idx: bool,
}

/// A descriptor, copied out of guest memory (2.7.5).
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
    /// The chain goes on at `next`.
    pub(crate) const NEXT: u16 = 1;
    /// The device writes into the buffer.
    pub(crate) const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub(crate) const INDIRECT: u16 = 4;

    #[inline]
    fn from_words(low: u64, high: u64) -> Self {
        let (low, high) = (u64::from_le(low), u64::from_le(high));
        Self { iova: low, len_bytes: high as u32, flags: (high >> 32) as u16, next: (high >> 48) as u16 }
    }

    /// Copies descriptor `index` of a table, reading each byte once.
    ///
    /// # Safety
    /// `table` must be mapped readable for `index + 1` descriptors.
    #[inline]
    pub(crate) unsafe fn read(table: *const u8, index: u16) -> Self {
        let at = table.wrapping_add(usize::from(index) * DESC_BYTES as usize);
        if at.addr().is_multiple_of(8) {
            let words: *const u64 = at.cast();
            // SAFETY: 16 bytes at `at` are mapped (our caller) and aligned for u64 (checked).
            let (low, high) = unsafe { (words.read_volatile(), words.add(1).read_volatile()) };
            return Self::from_words(low, high);
        }
        // Only indirect tables can be this crooked; no driver that we know makes one.
        let mut bytes = [0u8; 16];
        for (i, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: 16 bytes at `at` are mapped (our caller).
            *byte = unsafe { at.add(i).read_volatile() };
        }
        let word = |half: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[half * 8..half * 8 + 8]);
            u64::from_ne_bytes(word)
        };
        Self::from_words(word(0), word(1))
    }
}

/// The device's end of a split virtqueue. The mapped ring must outlive it: whoever owns it keeps the [`CoreMemory`]
/// that it was made from.
pub(crate) struct SplitQueue {
    desc: *const u8,
    avail: *const u8,
    used: *mut u8,
    size: u16,
    event_idx: bool,
    /// Next avail entry to take.
    next_avail: u16,
    /// Next used entry to write.
    next_used: u16,
    /// used.idx as the driver sees it.
    published_used: u16,
    /// What avail_event was last set to.
    avail_event: u16,
}

impl SplitQueue {
    /// Finds the ring in `memory` and starts at `next_avail`. Used entries go on behind those that the ring holds, which is
    /// the same number when nothing is in flight.
    ///
    /// # Errors
    /// [`QueueError`] when the size or an address is bad.
    pub(crate) fn new(memory: &mut CoreMemory, config: RingConfig) -> Result<Self, QueueError> {
        let RingConfig { addresses: at, size, next_avail, event_idx } = config;
        if !size.is_power_of_two() {
            return Err(QueueError::BadSize(size));
        }
        let entries = u64::from(size);
        let mut part = |part, iova: u64, len_bytes, align| {
            if !iova.is_multiple_of(align) {
                return Err(QueueError::RingMisaligned { part, iova, align });
            }
            match memory.contiguous(iova, len_bytes) {
                // A region whose own start is crooked makes a straight IOVA crooked.
                Some(host) if !(host.addr() as u64).is_multiple_of(align.min(8)) => {
                    Err(QueueError::RingMisaligned { part, iova, align })
                }
                Some(host) => Ok(host),
                None => Err(QueueError::RingUnmapped { part, iova, len_bytes }),
            }
        };
        let desc = part("descriptor table", at.desc, DESC_BYTES * entries, 16)?;
        let avail = part("avail ring", at.avail, 6 + 2 * entries, 2)?;
        let used = part("used ring", at.used, 6 + 8 * entries, 4)?;
        let mut queue = Self {
            desc,
            avail,
            used,
            size,
            event_idx,
            next_avail,
            next_used: 0,
            published_used: 0,
            avail_event: 0,
        };
        queue.next_used = u16::from_le(queue.used_word(1).load(Ordering::Relaxed));
        queue.published_used = queue.next_used;
        queue.suppress_kicks();
        Ok(queue)
    }

    /// Entries in the ring.
    #[must_use]
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The avail index that the device takes next.
    #[must_use]
    pub(crate) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Reads the avail index and says how many entries wait. One cache line when there are none.
    ///
    /// # Errors
    /// [`QueueError::AvailOverrun`] when the driver claims more than the ring holds.
    #[inline]
    pub(crate) fn waiting(&self) -> Result<u16, QueueError> {
        let index = u16::from_le(self.avail_word(1).load(Ordering::Acquire));
        let waiting = index.wrapping_sub(self.next_avail);
        if waiting > self.size {
            return Err(QueueError::AvailOverrun { index, next: self.next_avail, size: self.size });
        }
        Ok(waiting)
    }

    /// The head that the next avail entry names. Call it only while [`waiting`](Self::waiting) said so.
    ///
    /// # Errors
    /// [`QueueError::BadHead`] when it is beyond the table.
    #[inline]
    pub(crate) fn peek(&self) -> Result<u16, QueueError> {
        let slot = self.next_avail & (self.size - 1);
        // Relaxed: ordered by the Acquire load of the index.
        let head = u16::from_le(self.avail_word(2 + usize::from(slot)).load(Ordering::Relaxed));
        if head < self.size { Ok(head) } else { Err(QueueError::BadHead { head, size: self.size }) }
    }

    /// Takes the entry that [`peek`](Self::peek) showed.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Copies descriptor `index` of the ring's table; `None` beyond it.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        // SAFETY: `new` found `size` descriptors mapped at `desc`, and index < size.
        (index < self.size).then(|| unsafe { Descriptor::read(self.desc, index) })
    }

    /// Writes one used entry; the driver sees it after [`publish`](Self::publish). A driver that offers a head again
    /// before it was returned can make more than `size` of them and lose entries, its own only.
    #[inline]
    pub(crate) fn push_used(&mut self, head: u16, written_bytes: u32) {
        let slot = usize::from(self.next_used & (self.size - 1));
        let entry = (u64::from(head) | u64::from(written_bytes) << 32).to_le();
        // SAFETY: `new` found 6 + 8 * size bytes mapped at `used`, and slot < size. Nobody reads the entry before the
        // index is published, so a plain store will do; it may be 4-byte aligned only.
        unsafe { self.used.add(4 + 8 * slot).cast::<u64>().write_unaligned(entry) };
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Whether there are used entries that the driver has not been shown.
    #[inline]
    #[must_use]
    pub(crate) fn has_unpublished(&self) -> bool {
        self.next_used != self.published_used
    }

    /// Shows the driver all used entries written so far and says whether it wants an interrupt for them.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.published_used, self.next_used);
        self.used_word(1).store(new.to_le(), Ordering::Release);
        self.published_used = new;
        self.keep_kicks_suppressed();
        // See the table at the head of this module.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let used_event =
                u16::from_le(self.avail_word(2 + usize::from(self.size)).load(Ordering::Relaxed));
            // 2.7.7.2: used_event lies in [old, new).
            new.wrapping_sub(used_event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            u16::from_le(self.avail_word(0).load(Ordering::Relaxed)) & AVAIL_F_NO_INTERRUPT == 0
        }
    }

    fn suppress_kicks(&mut self) {
        if self.event_idx {
            self.used_word(0).store(0, Ordering::Relaxed);
            self.set_avail_event(self.next_avail.wrapping_sub(1));
        } else {
            self.used_word(0).store(USED_F_NO_NOTIFY.to_le(), Ordering::Relaxed);
        }
    }

    /// The driver kicks when its index passes avail_event; keep that behind it, out of reach of a wrap-around.
    #[inline]
    fn keep_kicks_suppressed(&mut self) {
        if self.event_idx && self.next_avail.wrapping_sub(self.avail_event) > AVAIL_EVENT_STRIDE {
            self.set_avail_event(self.next_avail.wrapping_sub(1));
        }
    }

    fn set_avail_event(&mut self, index: u16) {
        self.avail_event = index;
        self.used_word(2 + 4 * usize::from(self.size)).store(index.to_le(), Ordering::Relaxed);
    }

    /// The avail ring as 16-bit words: flags, idx, ring[size], used_event.
    #[inline]
    fn avail_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + usize::from(self.size));
        // SAFETY: `new` found 6 + 2 * size bytes mapped at `avail`, 2-byte aligned, and every caller's index is below
        // 3 + size. An atomic is the one kind of reference that others may store behind.
        unsafe { AtomicU16::from_ptr(self.avail.cast::<u16>().add(index).cast_mut()) }
    }

    /// The used ring as 16-bit words: flags, idx, ring[size] of four words, avail_event.
    #[inline]
    fn used_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + 4 * usize::from(self.size));
        // SAFETY: `new` found 6 + 8 * size bytes mapped at `used`, 4-byte aligned; callers use words 0, 1 and 2 + 4 * size.
        unsafe { AtomicU16::from_ptr(self.used.cast::<u16>().add(index)) }
    }
}

/// The registered buffer of two pieces together: the one that both lie in.
#[inline]
pub(crate) fn common_buf(a: Option<BufId>, b: Option<BufId>) -> Option<BufId> {
    if a == b { a } else { None }
}
