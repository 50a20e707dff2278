//! Histories of a split queue.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::SplitLog;
use super::super::split::SplitRecovery;
use super::{ENTRIES, Region, Step, cuts, steps};
use crate::{RingKind, RingState};

/// A chain that was taken and not shown: its head, and where the avail ring has it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Chain {
    at: u16,
    head: u16,
}

/// What a process leaves behind when it dies.
#[derive(Clone)]
struct Remains {
    region: Vec<u8>,
    used_idx: u16,
    unshown: Vec<Chain>,
}

/// A split ring as far as its log cares.
struct SplitModel {
    region: Region,
    log: SplitLog,
    used_idx: u16,
    next_avail: u16,
    /// Taken and not shown, in order.
    unshown: Vec<Chain>,
    /// Those of them that lie in the used ring.
    batch: Vec<Chain>,
    /// Heads that a process before had taken and this one has not.
    offered: VecDeque<u16>,
    /// After each store of the last step.
    last: Vec<Remains>,
}

impl SplitModel {
    fn new(start: u16) -> Self {
        let region = Region::new(RingKind::Split, ENTRIES);
        let mut log = region.split();
        let mut last = Vec::new();
        for region in cuts(&region, || {
            log.recover(RingState { avail: start, used: start }, ENTRIES).unwrap();
        }) {
            last.push(Remains { region, used_idx: start, unshown: vec![] });
        }
        let (unshown, batch, offered) = (vec![], vec![], VecDeque::new());
        Self { region, log, used_idx: start, next_avail: start, unshown, batch, offered, last }
    }

    fn step(&mut self, step: &Step) {
        if !matches!(step, Step::Die(_)) {
            self.last.clear();
        }
        match *step {
            Step::Take(_) => {
                // As `Logged` does it.
                if !self.batch.is_empty() {
                    self.publish();
                }
                if let Some(chain) = self.next() {
                    self.unshown.push(chain);
                    self.cut(|log| log.taken(chain.head));
                }
            }
            Step::Answer(_) => {
                if let Some(chain) = self.next() {
                    self.unshown.push(chain);
                    self.batch.push(chain);
                    self.cut(|log| log.answered(chain.head));
                }
            }
            Step::Finish(nth) => {
                let is_open = |chain: &&Chain| !self.batch.contains(chain);
                let open: Vec<Chain> = self.unshown.iter().filter(is_open).copied().collect();
                let Some(&chain) = open.get(nth % open.len().max(1)) else { return };
                self.batch.push(chain);
                self.cut(|log| log.returning(chain.head));
            }
            Step::Publish => self.publish(),
            Step::Die(nth) => {
                let remains = self.last.get(nth % self.last.len().max(1)).cloned();
                remains.iter().for_each(|remains| self.die(remains));
            }
        }
    }

    /// The lowest head that is free, as most drivers do it.
    fn next(&mut self) -> Option<Chain> {
        let is_free = |head: &u16| self.unshown.iter().all(|chain| chain.head != *head);
        let head = self.offered.pop_front().or_else(|| (0..ENTRIES).find(is_free))?;
        let at = self.next_avail;
        self.next_avail = at.wrapping_add(1);
        Some(Chain { at, head })
    }

    fn cut(&mut self, work: impl FnOnce(&mut SplitLog)) {
        for region in cuts(&self.region, || work(&mut self.log)) {
            self.last.push(Remains { region, used_idx: self.used_idx, unshown: self.unshown.clone() });
        }
    }

    fn publish(&mut self) {
        let used_idx = self.used_idx.wrapping_add(self.batch.len() as u16);
        self.cut(|log| log.publishing(used_idx));
        self.used_idx = used_idx;
        self.unshown.retain(|chain| !self.batch.contains(chain));
        self.batch.clear();
        self.cut(|log| log.returned(used_idx));
    }

    /// A successor finds what one of the last step's stores left behind.
    fn die(&mut self, remains: &Remains) {
        let Remains { region, used_idx, unshown } = remains.clone();
        self.region = Region::from_bytes(RingKind::Split, ENTRIES, &region);
        self.log = self.region.split();
        // The client knows no better than the used ring.
        let SplitRecovery { next_avail, heads } =
            self.log.recover(RingState { avail: used_idx, used: used_idx }, ENTRIES).unwrap();
        let (noted, in_the_ring) = unshown.split_at(heads.len());
        assert_eq!(heads, noted.iter().map(|chain| chain.head).collect::<Vec<_>>());
        let ahead: Vec<u16> = in_the_ring.iter().map(|chain| chain.at.wrapping_sub(next_avail)).collect();
        assert!(ahead.iter().copied().eq(0..ahead.len() as u16), "from {next_avail} on: {in_the_ring:?}");
        (self.used_idx, self.next_avail, self.unshown) = (used_idx, next_avail, noted.to_vec());
        self.offered = in_the_ring.iter().map(|chain| chain.head).chain(self.offered.drain(..)).collect();
        self.batch.clear();
        let region = self.region.bytes();
        self.last = vec![Remains { region, used_idx, unshown: self.unshown.clone() }];
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_split_log_and_its_ring_give_what_was_not_shown(start: u16, steps in steps()) {
        let mut model = SplitModel::new(start);
        for step in steps {
            for remains in &model.last {
                SplitModel::new(start).die(remains);
            }
            model.step(&step);
        }
    }
}

#[test]
fn what_is_done_at_once_leaves_three_stores_for_all_of_a_batch() {
    let mut model = SplitModel::new(7);
    model.last.clear();
    (0..ENTRIES).for_each(|_| model.step(&Step::Answer(1)));
    assert_eq!(model.last.len(), 1, "none for each: the region before");
    model.step(&Step::Publish);
    assert_eq!(model.last.len(), 2 + 3, "and before each half of it");
}
