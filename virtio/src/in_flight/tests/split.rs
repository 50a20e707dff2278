//! Histories of a split queue.

use proptest::prelude::*;

use super::super::SplitLog;
use super::super::split::SplitRecovery;
use super::{ENTRIES, Region, Step, cuts, steps};
use crate::{RingKind, RingState};

/// A split ring as far as its log cares, and what should be in flight.
struct SplitModel {
    region: Region,
    log: SplitLog,
    used_idx: u16,
    taken: u16,
    in_flight: Vec<u16>,
    batch: Vec<u16>,
    /// The stores of the last step: region, used index, and what may be in flight.
    last: Vec<(Vec<u8>, u16, Vec<u16>)>,
}

impl SplitModel {
    fn new(start: u16) -> Self {
        let region = Region::new(RingKind::Split, ENTRIES);
        let mut log = region.split();
        let mut last = Vec::new();
        for cut in cuts(&region, || {
            log.recover(RingState { avail: start, used: start }, ENTRIES).unwrap();
        }) {
            last.push((cut, start, vec![]));
        }
        Self { region, log, used_idx: start, taken: start, in_flight: vec![], batch: vec![], last }
    }

    fn step(&mut self, step: &Step) {
        let before = self.in_flight.clone();
        self.last = match *step {
            Step::Take(_) => {
                // The lowest head that is free, as most drivers do it.
                let free = |head: &u16| !self.in_flight.contains(head);
                let Some(head) = (0..ENTRIES).find(free) else { return };
                let cuts = cuts(&self.region, || self.log.taken(head));
                self.in_flight.push(head);
                self.taken = self.taken.wrapping_add(1);
                let last = cuts.len() - 1;
                let expected = |i| if i == last { self.in_flight.clone() } else { before.clone() };
                cuts.into_iter().enumerate().map(|(i, cut)| (cut, self.used_idx, expected(i))).collect()
            }
            Step::Finish(nth) => {
                let open: Vec<u16> =
                    self.in_flight.iter().copied().filter(|head| !self.batch.contains(head)).collect();
                let Some(&head) = open.get(nth % open.len().max(1)) else { return };
                let cuts = cuts(&self.region, || self.log.returning(head));
                self.batch.push(head);
                cuts.into_iter().map(|cut| (cut, self.used_idx, before.clone())).collect()
            }
            Step::Publish => {
                self.used_idx = self.used_idx.wrapping_add(self.batch.len() as u16);
                self.in_flight.retain(|head| !self.batch.contains(head));
                self.batch.clear();
                let cuts = cuts(&self.region, || self.log.returned(self.used_idx));
                cuts.into_iter().map(|cut| (cut, self.used_idx, self.in_flight.clone())).collect()
            }
            Step::Die(nth) => return self.die(nth),
        };
    }

    /// A successor finds what one of the last step's stores left behind.
    fn die(&mut self, nth: usize) {
        let (bytes, used_idx, expected) = self.last[nth % self.last.len()].clone();
        self.region = Region::from_bytes(RingKind::Split, ENTRIES, &bytes);
        self.log = self.region.split();
        // The client knows no better than the used ring.
        let recovery = self.log.recover(RingState { avail: used_idx, used: used_idx }, ENTRIES).unwrap();
        let next_avail = used_idx.wrapping_add(expected.len() as u16);
        assert_eq!(recovery, SplitRecovery { next_avail, heads: expected.clone() });
        (self.used_idx, self.taken, self.in_flight) = (used_idx, next_avail, expected.clone());
        self.batch.clear();
        self.last = vec![(self.region.bytes(), used_idx, expected)];
    }

    fn check_all_cuts(&self) {
        for (bytes, used_idx, expected) in &self.last {
            let region = Region::from_bytes(RingKind::Split, ENTRIES, bytes);
            let mut log = region.split();
            let found = log.recover(RingState { avail: *used_idx, used: *used_idx }, ENTRIES).unwrap();
            assert_eq!(found.heads, *expected);
            assert_eq!(found.next_avail, used_idx.wrapping_add(expected.len() as u16));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_split_log_gives_what_was_taken_and_not_shown(start: u16, steps in steps()) {
        let mut model = SplitModel::new(start);
        model.check_all_cuts();
        for step in steps {
            model.step(&step);
            model.check_all_cuts();
        }
    }
}
