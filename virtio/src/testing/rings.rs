//! The driver's side of both ring formats, over an arena: puts descriptors in, takes used ones out, counts the kicks that
//! it would have given.

use std::sync::atomic::{Ordering, fence};

use super::arena::Arena;

/// A descriptor to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) iova: u64,
    pub(super) len_bytes: u32,
    /// NEXT, WRITE, INDIRECT.
    pub(super) flags: u16,
}

/// What both formats share: where the parts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) size: u16,
    pub(super) driver_area: usize,
    pub(super) device_area: usize,
    pub(super) event_idx: bool,
}

/// Writes 16 bytes: an address, a length, and two more words in the order of the format.
pub(super) fn write_entry(arena: &Arena, offset: usize, iova: u64, len: u32, third: u16, fourth: u16) {
    arena.write(offset, &iova.to_le_bytes());
    arena.write(offset + 8, &len.to_le_bytes());
    arena.write16(offset + 12, third);
    arena.write16(offset + 14, fourth);
}

/// Section 2.7.
pub(super) struct SplitRing {
    pub(super) avail_index: u16,
    last_used: u16,
    free: Vec<u16>,
    /// The descriptors of the chain at each head.
    chains: Vec<Vec<u16>>,
}

impl SplitRing {
    pub(super) fn new(arena: &Arena, parts: Parts, start: u16) -> Self {
        let chains = vec![Vec::new(); usize::from(parts.size)];
        arena.write16(parts.driver_area + 2, start);
        arena.write16(parts.device_area + 2, start);
        Self { avail_index: start, last_used: start, free: (0..parts.size).rev().collect(), chains }
    }

    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    /// The id that the next chain of `count` entries will have.
    pub(super) fn next_id(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Writes a chain and returns its head. Not yet available.
    pub(super) fn put(&mut self, arena: &Arena, entries: &[Entry]) -> u16 {
        let ids: Vec<u16> = entries.iter().filter_map(|_| self.free.pop()).collect();
        let head = ids[0];
        for (i, entry) in entries.iter().enumerate() {
            let next = ids.get(i + 1).copied().unwrap_or(0);
            let at = 16 * usize::from(ids[i]);
            write_entry(arena, at, entry.iova, entry.len_bytes, entry.flags, next);
        }
        self.chains[usize::from(head)] = ids;
        head
    }

    /// Puts `head` into the avail ring and publishes it, whatever it is; whether a real driver would kick.
    pub(super) fn make_available(&mut self, arena: &Arena, parts: Parts, head: u16) -> bool {
        let slot = usize::from(self.avail_index % parts.size);
        arena.write16(parts.driver_area + 4 + 2 * slot, head);
        let old = self.avail_index;
        self.avail_index = old.wrapping_add(1);
        fence(Ordering::Release);
        arena.write16(parts.driver_area + 2, self.avail_index);
        fence(Ordering::SeqCst);
        if parts.event_idx {
            let event = arena.read16(parts.device_area + 4 + 8 * usize::from(parts.size));
            self.avail_index.wrapping_sub(event).wrapping_sub(1) < self.avail_index.wrapping_sub(old)
        } else {
            arena.read16(parts.device_area) & 1 == 0
        }
    }

    pub(super) fn take_used(&mut self, arena: &Arena, parts: Parts) -> Option<(u16, u32)> {
        if self.last_used == arena.read16(parts.device_area + 2) {
            return None;
        }
        fence(Ordering::Acquire);
        let at = parts.device_area + 4 + 8 * usize::from(self.last_used % parts.size);
        let (head, written) = (arena.read32(at), arena.read32(at + 4));
        self.last_used = self.last_used.wrapping_add(1);
        let chain = usize::try_from(head).ok().and_then(|head| self.chains.get_mut(head));
        self.free.extend(chain.map(std::mem::take).unwrap_or_default());
        Some((head as u16, written))
    }

    pub(super) fn want_interrupt(&self, arena: &Arena, parts: Parts, want: bool) {
        if parts.event_idx {
            let event = if want { self.last_used } else { self.last_used.wrapping_sub(1) };
            arena.write16(parts.driver_area + 4 + 2 * usize::from(parts.size), event);
        } else {
            arena.write16(parts.driver_area, u16::from(!want));
        }
    }
}

/// Section 2.8.
pub(super) struct PackedRing {
    /// Next place to write, and the wrap counter there.
    avail: (u16, bool),
    /// Next place to look at.
    used: (u16, bool),
    free_places: usize,
    free_ids: Vec<u16>,
    /// Places that the chain with each id takes.
    places: Vec<usize>,
    /// Flags of the head that was put last, written by `make_available`.
    pending: Option<(usize, u16)>,
}

/// AVAIL and USED, by the driver's wrap counter.
fn available(wrap: bool) -> u16 {
    if wrap { 1 << 7 } else { 1 << 15 }
}

fn step((place, wrap): (u16, bool), by: usize, size: u16) -> (u16, bool) {
    let to = usize::from(place) + by;
    let size = usize::from(size);
    if to >= size { ((to - size) as u16, !wrap) } else { (to as u16, wrap) }
}

fn word((place, wrap): (u16, bool)) -> u16 {
    place | u16::from(wrap) << 15
}

impl PackedRing {
    pub(super) fn new(arena: &Arena, parts: Parts, start: u16) -> Self {
        let at = (start % parts.size, true);
        // What lies behind was used in the round that goes on at `start`.
        (0..at.0).for_each(|place| arena.write16(16 * usize::from(place) + 14, 1 << 7 | 1 << 15));
        Self {
            avail: at,
            used: at,
            free_places: parts.size.into(),
            free_ids: (0..parts.size).rev().collect(),
            places: vec![0; parts.size.into()],
            pending: None,
        }
    }

    pub(super) fn state(&self) -> (u16, u16) {
        (word(self.avail), word(self.used))
    }

    pub(super) fn room(&self) -> usize {
        self.free_places.min(if self.free_ids.is_empty() { 0 } else { usize::MAX })
    }

    pub(super) fn next_id(&self) -> Option<u16> {
        self.free_ids.last().copied()
    }

    /// Writes a chain but for its head's flags and returns its id.
    pub(super) fn put(&mut self, arena: &Arena, parts: Parts, entries: &[Entry]) -> Option<u16> {
        let id = self.free_ids.pop()?;
        self.places[usize::from(id)] = entries.len();
        self.free_places -= entries.len();
        for (i, entry) in entries.iter().enumerate() {
            let at = 16 * usize::from(self.avail.0);
            let flags = entry.flags | available(self.avail.1);
            if i == 0 {
                let old = arena.read16(at + 14);
                write_entry(arena, at, entry.iova, entry.len_bytes, id, old);
                self.pending = Some((at + 14, flags));
            } else {
                write_entry(arena, at, entry.iova, entry.len_bytes, id, flags);
            }
            self.avail = step(self.avail, 1, parts.size);
        }
        Some(id)
    }

    /// Shows the device the chain that was put last; whether a real driver would kick.
    pub(super) fn make_available(&mut self, arena: &Arena, parts: Parts) -> bool {
        if let Some((at, flags)) = self.pending.take() {
            fence(Ordering::Release);
            arena.write16(at, flags);
            fence(Ordering::SeqCst);
        }
        arena.read16(parts.device_area + 2) & 3 != 1
    }

    pub(super) fn take_used(&mut self, arena: &Arena, parts: Parts) -> Option<(u16, u32)> {
        let at = 16 * usize::from(self.used.0);
        let flags = arena.read16(at + 14);
        let (avail, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
        if avail != used || used != self.used.1 {
            return None;
        }
        fence(Ordering::Acquire);
        let (len, id) = (arena.read32(at + 8), arena.read16(at + 12));
        let places = self.places.get_mut(usize::from(id)).map(std::mem::take).unwrap_or(0);
        if places > 0 {
            self.free_ids.push(id);
            self.free_places += places;
        }
        self.used = step(self.used, places.max(1), parts.size);
        // Without WRITE the length means nothing (2.8.5).
        Some((id, if flags & 2 != 0 { len } else { 0 }))
    }

    pub(super) fn want_interrupt(&self, arena: &Arena, parts: Parts, want: bool) {
        arena.write16(parts.driver_area, word(self.used));
        let flags = match (want, parts.event_idx) {
            (false, _) => 1,
            (true, true) => 2,
            (true, false) => 0,
        };
        arena.write16(parts.driver_area + 2, flags);
    }
}
