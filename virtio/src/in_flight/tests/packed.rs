//! Histories of a packed queue.

use proptest::prelude::*;

use super::super::PackedLog;
use super::super::packed_recovery::{PackedRecovery, SavedChain};
use super::{ENTRIES, Region, Step, cuts, steps};
use crate::descriptor::PackedDescriptor;
use crate::packed::Place;
use crate::{RingKind, RingState};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// The flags of an available (`used` false) or a used descriptor.
fn flags(wrap: bool, used: bool) -> u16 {
    (if wrap { AVAIL } else { 0 }) | if wrap == used { USED } else { 0 }
}

/// A place as virtio counts it.
fn advanced(state: u16, places: u16, size: u16) -> u16 {
    (0..places).fold(state, |state, _| match state & 0x7fff {
        index if index + 1 == size => (state ^ 0x8000) & 0x8000,
        _ => state + 1,
    })
}

#[derive(Clone, Debug, PartialEq)]
struct Chain {
    slot: u16,
    descriptors: Vec<PackedDescriptor>,
}

/// What a process leaves behind when it dies.
#[derive(Clone)]
struct Remains {
    region: Vec<u8>,
    ring: Vec<u16>,
    used: u16,
    in_flight: Vec<Chain>,
    /// Places of chains behind those, which only the ring still knows.
    answered: u16,
}

/// A packed ring, the flags of whose places count, and what should be in flight.
struct PackedModel {
    region: Region,
    log: PackedLog,
    ring: Vec<u16>,
    state: RingState,
    in_flight: Vec<Chain>,
    batch: Vec<Chain>,
    last: Vec<Remains>,
    next_id: u16,
    /// Places of chains that were answered and not shown.
    answers: Vec<u16>,
}

impl PackedModel {
    fn new(start: u16, size: u16) -> Self {
        let region = Region::new(RingKind::Packed, ENTRIES);
        let mut log = region.packed();
        let state = RingState { avail: start, used: start };
        log.recover(state, size, |_| 0).unwrap();
        let last = Vec::new();
        // As a round that went before leaves them.
        let ring = (0..size).map(|i| flags((i < start & 0x7fff) == (start & 0x8000 != 0), true)).collect();
        Self { region, log, ring, state, in_flight: vec![], batch: vec![], last, next_id: 0, answers: vec![] }
    }

    fn size(&self) -> u16 {
        self.ring.len() as u16
    }

    fn remains(&self, region: Vec<u8>, in_flight: &[Chain]) -> Remains {
        let (ring, used, in_flight) = (self.ring.clone(), self.state.used, in_flight.to_vec());
        Remains { region, ring, used, in_flight, answered: self.answers.iter().sum() }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Take(num) => self.take(num),
            Step::Answer(num) => self.answer(num),
            Step::Finish(nth) => {
                // As `Logged` does it.
                if !self.answers.is_empty() {
                    self.publish();
                }
                let open: Vec<&Chain> =
                    self.in_flight.iter().filter(|chain| !self.batch.contains(chain)).collect();
                let Some(chain) = open.get(nth % open.len().max(1)) else { return };
                let chain = (*chain).clone();
                let cuts = cuts(&self.region, || self.log.returning(chain.slot));
                // All used descriptors of a batch but the first are written at once.
                if let Some(places) = self.batch_places() {
                    let at = advanced(self.state.used, places, self.size());
                    self.ring[usize::from(at & 0x7fff)] = flags(at & 0x8000 != 0, true);
                }
                self.batch.push(chain);
                let before = self.in_flight.clone();
                self.last = cuts.into_iter().map(|cut| self.remains(cut, &before)).collect();
            }
            Step::Publish => self.publish(),
            Step::Die(_) if self.last.is_empty() => {}
            Step::Die(nth) => {
                let remains = self.last[nth % self.last.len()].clone();
                self.revive(&remains);
                self.last = vec![self.remains(self.region.bytes(), &self.in_flight)];
            }
        }
    }

    /// Places of the batch so far; `None` when there is none.
    fn batch_places(&self) -> Option<u16> {
        (!self.batch.is_empty()).then(|| self.batch.iter().map(|chain| chain.descriptors.len() as u16).sum())
    }

    /// The driver offers a chain and the device comes to it; `None`: there is no room.
    fn next(&mut self, num: u16) -> Option<Vec<PackedDescriptor>> {
        let in_flight: usize = self.in_flight.iter().map(|chain| chain.descriptors.len()).sum();
        let answered: u16 = self.answers.iter().sum();
        if in_flight + usize::from(answered + num) > self.ring.len() {
            return None;
        }
        let mut descriptors = Vec::new();
        for _ in 0..num {
            let (index, wrap) = (self.state.avail & 0x7fff, self.state.avail & 0x8000 != 0);
            self.ring[usize::from(index)] = flags(wrap, false);
            self.next_id = self.next_id.wrapping_add(1);
            let (id, flags) = (self.next_id, flags(wrap, false));
            descriptors.push(PackedDescriptor { iova: id.into(), len_bytes: id.into(), id, flags });
            self.state.avail = advanced(self.state.avail, 1, self.size());
        }
        Some(descriptors)
    }

    fn take(&mut self, num: u16) {
        let Some(descriptors) = self.next(num) else { return };
        // As `Logged` does it.
        self.publish();
        let settled = std::mem::take(&mut self.last);
        let before = self.in_flight.clone();
        let mut slot = None;
        let cuts = cuts(&self.region, || slot = self.log.taken(descriptors.iter().copied()));
        self.in_flight.push(Chain { slot: slot.unwrap(), descriptors });
        let last = cuts.len() - 1;
        let expected = |i| if i == last { &self.in_flight } else { &before };
        let taken = cuts.into_iter().enumerate().map(|(i, cut)| self.remains(cut, expected(i)));
        self.last = settled.into_iter().chain(taken).collect();
    }

    /// A chain whose request is done at once.
    fn answer(&mut self, num: u16) {
        if !self.batch.is_empty() {
            self.publish();
        }
        if self.next(num).is_none() {
            return;
        }
        self.last.clear();
        let from = self.answers.iter().fold(self.state.used, |at, places| advanced(at, *places, self.size()));
        let to = advanced(from, num, self.size());
        let word = u64::from(flags(from & 0x8000 != 0, true)) << 48;
        self.answers.push(num);
        let mut has_room = true;
        let cuts = cuts(&self.region, || {
            has_room = self.log.answered(Place::from_state(from), Place::from_state(to), word);
        });
        assert_eq!(cuts.len(), 1, "nothing is stored");
        if !has_room {
            self.show_answers();
        }
    }

    /// Each may be the last that the driver is shown, and what is behind it stays in the ring.
    fn show_answers(&mut self) {
        let (region, mut written) = (&self.region, Vec::new());
        let write = |index, word| written.push((region.bytes(), index, word));
        let behind = self
            .answers
            .iter()
            .fold(self.state.used, |at, places| advanced(at, *places, self.ring.len() as u16));
        let cuts = cuts(region, || self.log.show_answers(Place::from_state(behind), write));
        assert_eq!(cuts.len(), written.len() + 1, "one store for each");
        self.last = vec![self.remains(cuts[0].clone(), &self.in_flight)];
        for (cut, index, word) in written {
            self.last.push(self.remains(cut.clone(), &self.in_flight));
            assert_eq!(index, self.state.used & 0x7fff);
            self.ring[usize::from(index)] = (word >> 48) as u16;
            self.state.used = advanced(self.state.used, self.answers.remove(0), self.size());
            self.last.push(self.remains(cut, &self.in_flight));
        }
    }

    fn publish(&mut self) {
        let before = self.in_flight.clone();
        self.last.clear();
        if !self.answers.is_empty() {
            self.show_answers();
        }
        if let Some(places) = self.batch_places() {
            let first = self.state.used;
            let used = advanced(first, places, self.size());
            let cuts = cuts(&self.region, || self.log.publishing(Place::from_state(used)));
            self.last = cuts.into_iter().map(|cut| self.remains(cut, &before)).collect();
            self.ring[usize::from(first & 0x7fff)] = flags(first & 0x8000 != 0, true);
            self.state.used = used;
        }
        self.in_flight.retain(|chain| !self.batch.contains(chain));
        self.batch.clear();
        let cuts_after = cuts(&self.region, || self.log.returned());
        let after: Vec<_> = cuts_after.into_iter().map(|cut| self.remains(cut, &self.in_flight)).collect();
        self.last.extend(after);
    }

    /// A successor goes on with what is left.
    fn revive(&mut self, remains: &Remains) {
        self.region = Region::from_bytes(RingKind::Packed, ENTRIES, &remains.region);
        self.log = self.region.packed();
        self.ring = remains.ring.clone();
        // The client's base is as old as the connection.
        let PackedRecovery { state, chains } =
            self.log.recover(RingKind::Packed.start(), self.size(), |at| self.ring[usize::from(at)]).unwrap();
        let chain = |chain: SavedChain| Chain { slot: chain.slot, descriptors: chain.descriptors };
        self.in_flight = chains.into_iter().map(chain).collect();
        assert_eq!(self.in_flight, remains.in_flight);
        let places: usize = self.in_flight.iter().map(|chain| chain.descriptors.len()).sum();
        assert_eq!(state.used, remains.used);
        assert_eq!(state.avail, advanced(state.used, places as u16, self.size()));
        let mut at = state.avail;
        for _ in 0..remains.answered {
            assert_eq!(
                self.ring[usize::from(at & 0x7fff)],
                flags(at & 0x8000 != 0, false),
                "lost at {at:#x}"
            );
            at = advanced(at, 1, self.size());
        }
        self.state = state;
        self.batch.clear();
        self.answers.clear();
        let mut at = state.used;
        while at != state.avail || (places == self.ring.len() && at == state.used) {
            self.ring[usize::from(at & 0x7fff)] = flags(at & 0x8000 != 0, false);
            at = advanced(at, 1, self.size());
            if at == state.avail {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_packed_log_gives_what_was_taken_and_not_shown(
        size in 1..=ENTRIES,
        start: u16,
        steps in steps(),
    ) {
        let start = (start & 0x8000) | ((start & 0x7fff) % size);
        let mut model = PackedModel::new(start, size);
        for step in steps {
            model.step(&step);
            let remains = std::mem::take(&mut model.last);
            for remains in &remains {
                PackedModel::new(start, size).revive(remains);
            }
            model.last = remains;
        }
    }
}
