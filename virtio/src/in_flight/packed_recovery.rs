//! What a packed ring's log tells the successor of the process that wrote it.

use super::packed::{
    ADDR, AVAIL, COUNTER, ENTRY_BYTES, FLAGS, ID, IN_FLIGHT, LAST, LEN, NEXT, NUM, PackedLog, USED, USED_AT,
    entry,
};
use super::{FEATURES, InFlightError, Region, VERSION_AT, apart};
use crate::RingState;
use crate::descriptor::PackedDescriptor;
use crate::packed::Place;

/// What a packed ring's log says is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PackedRecovery {
    /// Where the ring goes on.
    pub(crate) state: RingState,
    /// Chains to submit again, in this order.
    pub(crate) chains: Vec<SavedChain>,
}

/// A chain as it was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SavedChain {
    /// Its name in the log, for `returning`.
    pub(crate) slot: u16,
    /// Its descriptors, as they were in the ring; the id of the last one is the chain's.
    pub(crate) descriptors: Vec<PackedDescriptor>,
}

impl PackedLog {
    /// Finds out what was in flight; call it first, and once. `ring` is the client's base, which counts with a fresh log
    /// only. `flags_at` reads the flags of a place of the ring, which is below `ring_size`.
    ///
    /// Before the ring is polled, the flags of each of its places from `state.used` up to `state.avail` have to be made
    /// those of an available descriptor: AVAIL set as the wrap counter of that place, USED not.
    ///
    /// # Errors
    /// [`InFlightError`] when the log does not go with the ring; nothing may be submitted then.
    pub(crate) fn recover(
        &mut self,
        ring: RingState,
        ring_size: u16,
        flags_at: impl Fn(u16) -> u16,
    ) -> Result<PackedRecovery, InFlightError> {
        self.region.check_ring(ring_size)?;
        self.ring_size = ring_size;
        if self.region.fresh {
            self.used = Place::from_state(ring.used);
            if self.used.index >= ring_size {
                let value = self.used.index.into();
                return Err(InFlightError::Damaged { what: "its ring stands at place", value });
            }
            self.settled = self.used;
            self.write_fresh();
            return Ok(PackedRecovery { state: ring, chains: Vec::new() });
        }
        self.settle(flags_at)?;
        let mut seen = vec![false; self.slots.len()];
        let mut unseen = self.slots.len() - self.recover_free(&mut seen)?;
        let mut found = Vec::new();
        for slot in 0..self.region.entries {
            if !seen[usize::from(slot)] && self.region.words.load_u8(entry(slot) + IN_FLIGHT) == 1 {
                let chain = self.recover_chain(slot, &mut seen)?;
                unseen -= chain.descriptors.len();
                found.push((self.region.words.load_u64(entry(slot) + COUNTER), chain));
            }
        }
        let places: usize = found.iter().map(|(_, chain)| chain.descriptors.len()).sum();
        if unseen > 0 || places > usize::from(ring_size) {
            let value = (self.slots.len() - places) as u64;
            return Err(InFlightError::Damaged { what: "entries that are not in flight:", value });
        }
        found.sort_unstable_by_key(|(counter, chain)| (*counter, chain.slot));
        self.counter = found.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        let avail = self.used.advanced(places as u16, ring_size);
        let state = RingState { avail: avail.state(), used: self.used.state() };
        Ok(PackedRecovery { state, chains: found.into_iter().map(|(_, chain)| chain).collect() })
    }

    /// The writer may have died while it returned a batch: commits that if the driver has been shown it, else takes it back.
    fn settle(&mut self, flags_at: impl Fn(u16) -> u16) -> Result<(), InFlightError> {
        let [_, _, mut free, old_free] = apart(self.region.words.load_u64(VERSION_AT));
        let [index, old_index, wraps, _] = apart(self.region.words.load_u64(USED_AT));
        let [wrap, old_wrap] = wraps.to_ne_bytes();
        let (mut used, old_used) =
            (Place { index, wrap: wrap != 0 }, Place { index: old_index, wrap: old_wrap != 0 });
        if let Some(place) = [index, old_index].into_iter().find(|&place| place >= self.ring_size) {
            return Err(InFlightError::Damaged { what: "it stands at place", value: place.into() });
        }
        let available = if old_used.wrap { AVAIL } else { USED };
        if used == old_used || flags_at(old_index) & (AVAIL | USED) == available {
            (free, used) = (old_free, old_used);
        }
        (self.free_head, self.used, self.settled) = (free, used, used);
        self.store_free(free, free);
        self.store_used(used, used);
        Ok(())
    }

    /// Follows the free list and says how long it is. What is in it is not in flight, whatever its entry says.
    fn recover_free(&mut self, seen: &mut [bool]) -> Result<usize, InFlightError> {
        let (mut at, mut count) = (self.free_head, 0);
        while at < self.region.entries {
            at = self.visit(at, seen)?;
            count += 1;
        }
        let mut slot = self.free_head;
        while slot < self.region.entries {
            self.region.words.store_u8(entry(slot) + IN_FLIGHT, 0);
            slot = self.slots[usize::from(slot)].next;
        }
        Ok(count)
    }

    fn recover_chain(&mut self, head: u16, seen: &mut [bool]) -> Result<SavedChain, InFlightError> {
        let (num, last) = {
            let words = &self.region.words;
            (words.load_u16(entry(head) + NUM), words.load_u16(entry(head) + LAST))
        };
        let (mut at, mut end, mut descriptors) = (head, head, Vec::new());
        for _ in 0..num {
            if at >= self.region.entries {
                break;
            }
            end = at;
            at = self.visit(end, seen)?;
            descriptors.push(self.descriptor(end));
        }
        if num == 0 || descriptors.len() != usize::from(num) || end != last {
            return Err(InFlightError::Damaged { what: "a broken chain at entry", value: head.into() });
        }
        let slot = &mut self.slots[usize::from(head)];
        (slot.last, slot.num) = (last, num);
        Ok(SavedChain { slot: head, descriptors })
    }

    /// Copies the link of `slot`, which is below the number of entries, and returns where it leads.
    fn visit(&mut self, slot: u16, seen: &mut [bool]) -> Result<u16, InFlightError> {
        if std::mem::replace(&mut seen[usize::from(slot)], true) {
            return Err(InFlightError::Damaged { what: "two lists meet at entry", value: slot.into() });
        }
        let next = self.region.words.load_u16(entry(slot) + NEXT);
        self.slots[usize::from(slot)].next = next;
        Ok(next)
    }

    fn descriptor(&self, slot: u16) -> PackedDescriptor {
        let words = &self.region.words;
        PackedDescriptor {
            iova: words.load_u64(entry(slot) + ADDR),
            len_bytes: words.load_u32(entry(slot) + LEN),
            id: words.load_u16(entry(slot) + ID),
            flags: words.load_u16(entry(slot) + FLAGS),
        }
    }

    /// The version comes last: until then the region counts as unwritten.
    fn write_fresh(&mut self) {
        let Region { words, entries, .. } = &self.region;
        words.store_u16(VERSION_AT, 0);
        words.store_u64(FEATURES, 0);
        for slot in 0..*entries {
            for word in (0..ENTRY_BYTES).step_by(8) {
                words.store_u64(entry(slot) + word, 0);
            }
            words.store_u16(entry(slot) + NEXT, slot + 1);
            self.slots[usize::from(slot)].next = slot + 1;
        }
        self.free_head = 0;
        self.store_used(self.used, self.used);
        self.store_free(0, 0);
        self.region.fresh = false;
    }
}
