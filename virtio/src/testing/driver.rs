//! The driver: lays chains out in the arena and hands them to a ring of either format.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::arena::Arena;
use super::rings::{Entry, PackedRing, Parts, SplitRing, write_entry};
use super::{BASE, Buffer, TABLE_ENTRIES};
use crate::{MemoryMap, Region, RingAddresses, RingConfig, RingKind, RingState};

enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

/// The driver's end of a virtqueue in an arena of its own.
pub struct Driver {
    arena: Arc<Arena>,
    parts: Parts,
    window_bytes: usize,
    ring: Ring,
    layouts: Vec<Vec<(usize, usize)>>,
    kicks: u64,
}

impl Driver {
    /// A driver with a split ring of `size`, `window_bytes` of data space per head, starting at ring index `start`.
    ///
    /// # Panics
    /// When memory cannot be had.
    #[must_use]
    pub fn new(size: u16, window_bytes: usize, event_idx: bool, start: u16) -> Self {
        Self::with_ring(RingKind::Split, size, window_bytes, event_idx, start)
    }

    /// A driver with a packed ring of `size` that starts at place `start % size`; `window_bytes` of data space per id.
    ///
    /// # Panics
    /// When memory cannot be had.
    #[must_use]
    pub fn packed(size: u16, window_bytes: usize, event_idx: bool, start: u16) -> Self {
        Self::with_ring(RingKind::Packed, size, window_bytes, event_idx, start)
    }

    /// A driver with a ring of either kind; see [`new`](Self::new) and [`packed`](Self::packed).
    ///
    /// # Panics
    /// When memory cannot be had.
    #[must_use]
    pub fn with_ring(kind: RingKind, size: u16, window_bytes: usize, event_idx: bool, start: u16) -> Self {
        let driver_area = 16 * usize::from(size);
        let device_area = (driver_area + 6 + 2 * usize::from(size)).next_multiple_of(64);
        let parts = Parts { size, driver_area, device_area, event_idx };
        let arena = Arc::new(Arena::new(data_offset(size, window_bytes, size)));
        let ring = match kind {
            RingKind::Split => Ring::Split(SplitRing::new(&arena, parts, start)),
            RingKind::Packed => Ring::Packed(PackedRing::new(&arena, parts, start)),
        };
        let layouts = vec![Vec::new(); usize::from(size)];
        let driver = Self { arena, parts, window_bytes, ring, layouts, kicks: 0 };
        driver.want_interrupt(true);
        driver
    }

    /// The memory as the device is to see it.
    #[must_use]
    pub fn memory_map(&self) -> Arc<MemoryMap> {
        Arc::new(MemoryMap::new([self.region_at(BASE)]))
    }

    /// What to tell the device about the ring.
    #[must_use]
    pub fn ring_config(&self) -> RingConfig {
        let (kind, state) = match &self.ring {
            Ring::Split(ring) => (RingKind::Split, RingState { avail: ring.avail_index, used: 0 }),
            Ring::Packed(ring) => {
                let (avail, used) = ring.state();
                (RingKind::Packed, RingState { avail, used })
            }
        };
        let at = |offset: usize| BASE + offset as u64;
        RingConfig {
            kind,
            addresses: RingAddresses {
                desc: BASE,
                avail: at(self.parts.driver_area),
                used: at(self.parts.device_area),
            },
            size: self.parts.size,
            state,
            event_idx: self.parts.event_idx,
        }
    }

    /// Entries of the ring.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.parts.size
    }

    /// Puts a chain of `buffers` into the ring, indirect or not; `None` when descriptors are short. Buffers are laid out one
    /// after another, `gap` bytes apart, in the window of the id that is returned.
    pub fn submit(&mut self, buffers: &[Buffer], indirect: bool, gap: usize) -> Option<u16> {
        let needed = if indirect { 1 } else { buffers.len() };
        let (room, id) = match &self.ring {
            Ring::Split(ring) => (ring.room(), ring.next_id()?),
            Ring::Packed(ring) => (ring.room(), ring.next_id()?),
        };
        if room < needed || buffers.is_empty() || buffers.len() > TABLE_ENTRIES {
            return None;
        }
        let layout = self.lay_out(id, buffers, gap);
        let mut entries: Vec<Entry> = buffers
            .iter()
            .zip(&layout)
            .enumerate()
            .map(|(i, (buffer, &(offset, len)))| Entry {
                iova: BASE + offset as u64,
                len_bytes: len as u32,
                flags: flags(buffer, i + 1 < buffers.len()),
            })
            .collect();
        if indirect {
            entries = vec![self.write_table(id, &entries)];
        }
        match &mut self.ring {
            Ring::Split(ring) => {
                let head = ring.put(&self.arena, &entries);
                self.kicks += u64::from(ring.make_available(&self.arena, self.parts, head));
            }
            Ring::Packed(ring) => {
                ring.put(&self.arena, self.parts, &entries)?;
                self.kicks += u64::from(ring.make_available(&self.arena, self.parts));
            }
        }
        self.layouts[usize::from(id)] = layout;
        Some(id)
    }

    /// Puts `head` into a split avail ring and publishes it, whatever it is. Nothing for a packed ring.
    pub fn make_available(&mut self, head: u16) {
        if let Ring::Split(ring) = &mut self.ring {
            self.kicks += u64::from(ring.make_available(&self.arena, self.parts, head));
        }
    }

    /// Takes what the device has returned: ids and written bytes. Frees the descriptors; the data stay readable until the
    /// id is used again. Never more than two rounds of the ring.
    pub fn completed(&mut self) -> Vec<(u16, u32)> {
        let mut got = Vec::new();
        while got.len() < 2 * usize::from(self.parts.size) {
            let used = match &mut self.ring {
                Ring::Split(ring) => ring.take_used(&self.arena, self.parts),
                Ring::Packed(ring) => ring.take_used(&self.arena, self.parts),
            };
            match used {
                Some(used) => got.push(used),
                None => break,
            }
        }
        got
    }

    /// Asks for an interrupt with the next used entry, or for none.
    pub fn want_interrupt(&self, want: bool) {
        match &self.ring {
            Ring::Split(ring) => ring.want_interrupt(&self.arena, self.parts, want),
            Ring::Packed(ring) => ring.want_interrupt(&self.arena, self.parts, want),
        }
        fence(Ordering::SeqCst);
    }

    /// The bytes of buffer `index` of the chain with this id.
    #[must_use]
    pub fn buffer(&self, id: u16, index: usize) -> Vec<u8> {
        let (offset, len) = self.layouts[usize::from(id)][index];
        (offset..offset + len).map(|at| self.arena.read8(at)).collect()
    }

    /// Kicks that the device should have suppressed.
    #[must_use]
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        self.arena.len_bytes
    }

    /// Writes any byte of the arena, as a driver gone mad would.
    pub fn poke(&self, offset: usize, byte: u8) {
        self.arena.write8(offset % self.arena.len_bytes, byte);
    }

    /// Reads any byte of the arena.
    #[must_use]
    pub fn peek(&self, offset: usize) -> u8 {
        self.arena.read8(offset % self.arena.len_bytes)
    }

    /// The arena as a region at another IOVA.
    #[must_use]
    pub fn region_at(&self, iova: u64) -> Region {
        let len = self.arena.len_bytes as u64;
        // SAFETY: the arena is mapped for as long as the `Arc` in the region lives, and only raw pointers reach into it.
        unsafe { Region::new(iova, len, self.arena.start, true, self.arena.clone()) }
    }

    /// Writes descriptor `index` of a split ring's own table.
    pub fn write_descriptor(&self, index: u16, iova: u64, len: u32, flags: u16, next: u16) {
        write_entry(&self.arena, 16 * usize::from(index), iova, len, flags, next);
    }

    /// Writes descriptor `place` of a packed ring; `flags` with AVAIL and USED as they are to be.
    pub fn write_packed_descriptor(&self, place: u16, iova: u64, len: u32, id: u16, flags: u16) {
        write_entry(&self.arena, 16 * usize::from(place), iova, len, id, flags);
    }

    /// Writes entry `index` of an id's indirect table and returns the table's IOVA.
    pub fn write_table_entry(
        &self,
        id: u16,
        index: usize,
        iova: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) -> u64 {
        let table = table_offset(self.parts.size, id);
        write_entry(&self.arena, table + 16 * (index % TABLE_ENTRIES), iova, len, flags, next);
        BASE + table as u64
    }

    /// Sets a split ring's avail index without regard to what is in the ring.
    pub fn set_avail_index(&mut self, index: u16) {
        if let Ring::Split(ring) = &mut self.ring {
            ring.avail_index = index;
            self.arena.write16(self.parts.driver_area + 2, index);
        }
    }

    /// IOVA of the data window of an id.
    #[must_use]
    pub fn window(&self, id: u16) -> u64 {
        BASE + data_offset(self.parts.size, self.window_bytes, id) as u64
    }

    /// Writes an indirect table in the ring's format; returns the descriptor that points to it.
    fn write_table(&self, id: u16, entries: &[Entry]) -> Entry {
        let table = table_offset(self.parts.size, id);
        for (i, entry) in entries.iter().enumerate() {
            let (third, fourth) = match self.ring {
                Ring::Split(_) => (entry.flags, i as u16 + 1),
                // No NEXT in a packed ring's tables (2.8.7).
                Ring::Packed(_) => (0, entry.flags & !1),
            };
            write_entry(&self.arena, table + 16 * i, entry.iova, entry.len_bytes, third, fourth);
        }
        Entry { iova: BASE + table as u64, len_bytes: 16 * entries.len() as u32, flags: 4 }
    }

    fn lay_out(&self, id: u16, buffers: &[Buffer], gap: usize) -> Vec<(usize, usize)> {
        let start = data_offset(self.parts.size, self.window_bytes, id);
        let mut offset = start;
        let place = |buffer: &Buffer| {
            let len = match buffer {
                Buffer::Out(bytes) => bytes.len(),
                Buffer::In(len) => *len,
            };
            let at = offset;
            offset += len + gap;
            assert!(offset <= start + self.window_bytes, "buffers larger than the window");
            match buffer {
                Buffer::Out(bytes) => self.arena.write(at, bytes),
                Buffer::In(_) => (0..len).for_each(|i| self.arena.write8(at + i, 0xee)),
            }
            (at, len)
        };
        buffers.iter().map(place).collect()
    }
}

fn flags(buffer: &Buffer, more: bool) -> u16 {
    u16::from(more) | if matches!(buffer, Buffer::In(_)) { 2 } else { 0 }
}

fn table_offset(size: u16, id: u16) -> usize {
    tables_offset(size) + 16 * TABLE_ENTRIES * usize::from(id)
}

fn tables_offset(size: u16) -> usize {
    (26 * usize::from(size) + 256).next_multiple_of(64)
}

fn data_offset(size: u16, window_bytes: usize, id: u16) -> usize {
    (tables_offset(size) + 16 * TABLE_ENTRIES * usize::from(size)).next_multiple_of(4096)
        + window_bytes * usize::from(id)
}
