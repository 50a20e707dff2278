//! Histories of a queue, cut at every store into the log and the ring; after each cut the log must give exactly what was
//! taken and not shown.

mod packed;
mod split;

use std::cell::RefCell;
use std::sync::Arc;

use proptest::prelude::*;

use super::split::SplitRecovery;
use super::{InFlightError, InFlightLog, PackedLog, SplitLog};
use crate::descriptor::PackedDescriptor;
use crate::packed::Place;
use crate::{RingKind, RingState};

thread_local! {
    /// The region after each store, while somebody wants to know.
    static HISTORY: RefCell<Option<Vec<Vec<u8>>>> = const { RefCell::new(None) };
}

/// Called after each store into a region.
pub(super) fn stored(start: *const u8, len_bytes: usize) {
    HISTORY.with_borrow_mut(|history| {
        if let Some(history) = history {
            // SAFETY: the region of a log, mapped by the test, which is the only one to write it.
            history.push(unsafe { std::slice::from_raw_parts(start, len_bytes) }.to_vec());
        }
    });
}

/// The region before, and after each store of, `work`.
fn cuts(region: &Region, work: impl FnOnce()) -> Vec<Vec<u8>> {
    HISTORY.set(Some(vec![region.bytes()]));
    work();
    HISTORY.take().unwrap()
}

/// Shared memory for one log.
struct Region {
    words: Arc<Vec<u64>>,
    kind: RingKind,
    entries: u16,
}

impl Region {
    fn new(kind: RingKind, entries: u16) -> Self {
        let len_bytes = InFlightLog::region_len_bytes(kind, entries);
        Self { words: Arc::new(vec![0; len_bytes / 8]), kind, entries }
    }

    fn from_bytes(kind: RingKind, entries: u16, bytes: &[u8]) -> Self {
        let region = Self::new(kind, entries);
        // SAFETY: the vector is at least as long as any log of its size, and nobody uses it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.start(), bytes.len()) };
        region
    }

    fn start(&self) -> *mut u8 {
        self.words.as_ptr().cast_mut().cast()
    }

    fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn open(&self) -> Result<InFlightLog, InFlightError> {
        let keep = Arc::clone(&self.words);
        // SAFETY: the vector lives as long as `keep`, and is reached through the log and copied by `bytes` on this thread.
        unsafe { InFlightLog::new(self.kind, self.start(), self.words.len() * 8, self.entries, keep) }
    }

    fn split(&self) -> SplitLog {
        let Ok(InFlightLog::Split(log)) = self.open() else { panic!("a good log is refused") };
        log
    }

    fn packed(&self) -> PackedLog {
        let Ok(InFlightLog::Packed(log)) = self.open() else { panic!("a good log is refused") };
        log
    }
}

/// What a history does next.
#[derive(Clone, Debug)]
enum Step {
    /// A chain of this many descriptors, whose request goes on.
    Take(u16),
    /// One whose request is done at once.
    Answer(u16),
    /// One of those in flight is done.
    Finish(usize),
    Publish,
    /// The process dies, at one of the stores of the step before, and another takes over.
    Die(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..4u16).prop_map(Step::Take),
        4 => (1..4u16).prop_map(Step::Answer),
        4 => any::<usize>().prop_map(Step::Finish),
        2 => Just(Step::Publish),
        1 => any::<usize>().prop_map(Step::Die),
    ];
    prop::collection::vec(step, 1..60)
}

const ENTRIES: u16 = 6;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is in the region, a walk ends and touches nothing outside.
    #[test]
    fn garbage_is_refused_or_bounded(
        bytes in prop::collection::vec(prop_oneof![3 => 0..8u8, 1 => any::<u8>()], 232),
        ring: (u16, u16),
        flags: u16,
    ) {
        for kind in [RingKind::Split, RingKind::Packed] {
            let region = Region::from_bytes(kind, ENTRIES, &bytes[..InFlightLog::region_len_bytes(kind, ENTRIES).min(232)]);
            // SAFETY: version and number of entries, inside the region that nobody uses yet.
            unsafe {
                region.start().cast::<[u64; 2]>().write([0, super::side_by_side([1, ENTRIES, bytes[12].into(), bytes[14].into()])]);
            }
            let state = RingState { avail: ring.0, used: ring.1 };
            match region.open().unwrap() {
                InFlightLog::Split(mut log) => {
                    if let Ok(found) = log.recover(state, ENTRIES) {
                        assert!(found.heads.iter().all(|head| *head < ENTRIES));
                    }
                    log.returning(3);
                    log.taken(u16::MAX);
                    log.answered(u16::MAX);
                    log.publishing(u16::MAX);
                    log.returned(1);
                }
                InFlightLog::Packed(mut log) => {
                    if let Ok(found) = log.recover(state, ENTRIES, |_| flags) {
                        let places: usize = found.chains.iter().map(|chain| chain.descriptors.len()).sum();
                        assert!(places <= ENTRIES.into());
                        for chain in found.chains {
                            log.returning(chain.slot);
                        }
                        log.publishing(Place::from_state(found.state.avail));
                        log.returned();
                    }
                }
            }
        }
    }
}

#[test]
fn the_layout_is_the_protocols() {
    let region = Region::new(RingKind::Split, 2);
    let mut log = region.split();
    log.recover(RingState { avail: 5, used: 5 }, 2).unwrap();
    log.taken(0);
    log.taken(1);
    log.returning(1);
    log.publishing(6);
    let bytes = region.bytes();
    assert_eq!(bytes[..16], [[0; 8], [1, 0, 2, 0, 1, 0, 5, 0]].concat());
    assert_eq!(bytes[16..32], [[1, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat());
    assert_eq!(bytes[32..48], [[1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]].concat());
    assert_eq!(bytes.len(), 64);
    log.returned(6);
    log.answered(1);
    log.publishing(7);
    let bytes = region.bytes();
    assert_eq!(bytes[..16], [[0; 8], [1, 0, 2, 0, 1, 0, 6, 0]].concat());
    assert_eq!(bytes[32..40], [0, 0, 0, 0, 0, 0, 1, 0], "an entry that is clear, and leads to itself");

    let region = Region::new(RingKind::Packed, 3);
    let mut log = region.packed();
    log.recover(RingState { avail: 0x8001, used: 0x8001 }, 3, |_| 0).unwrap();
    let desc =
        |id: u16| PackedDescriptor { iova: 0x0807_0605_0403_0201, len_bytes: 0x0c0b_0a09, id, flags: 0x80 };
    assert_eq!(log.taken([desc(7), desc(9)].into_iter()), Some(0));
    assert_eq!(log.taken([desc(7), desc(9)].into_iter()), None, "one place is left");
    let bytes = region.bytes();
    assert_eq!(bytes[..16], [[0; 8], [1, 0, 3, 0, 2, 0, 2, 0]].concat());
    assert_eq!(bytes[16..32], [[1, 0, 1, 0, 1, 1, 0, 0], [0; 8]].concat());
    assert_eq!(bytes[32..48], [[1, 0, 1, 0, 1, 0, 2, 0], [0; 8]].concat());
    assert_eq!(bytes[48..64], [[7, 0, 0x80, 0, 9, 10, 11, 12], [1, 2, 3, 4, 5, 6, 7, 8]].concat());
    assert_eq!(bytes.len(), 128);
}

#[test]
fn foreign_logs_are_refused_with_the_reason() {
    let refused = |header: [u64; 2]| {
        let region = Region::new(RingKind::Split, 4);
        // SAFETY: inside the region that nobody uses yet.
        unsafe { region.start().cast::<[u64; 2]>().write(header) };
        region.open().err().map(|e| e.to_string()).unwrap_or_default()
    };
    let header = |version, entries| super::side_by_side([version, entries, 0, 0]);
    assert_eq!(refused([0, header(1, 4)]), "");
    assert_eq!(refused([7, header(0, 9)]), "", "a region that nobody wrote");
    assert!(refused([0, header(2, 4)]).contains("version 2"));
    assert!(refused([1, header(1, 4)]).contains("features 0x1"));
    assert!(refused([0, header(1, 5)]).contains("made for 5 entries, 4"));
    let region = Region::new(RingKind::Split, 4);
    let open = |start, len_bytes, entries| {
        // SAFETY: refused before anything is touched.
        unsafe { InFlightLog::new(RingKind::Split, start, len_bytes, entries, Arc::new(())) }.err()
    };
    assert_eq!(open(region.start().wrapping_add(4), 80, 4), Some(InFlightError::Misaligned));
    assert!(matches!(open(region.start(), 79, 4), Some(InFlightError::TooShort { need_bytes: 80, .. })));
    assert_eq!(open(region.start(), 1 << 30, 0), Some(InFlightError::BadSize(0)));
    assert!(matches!(
        region.split().recover(RingState::default(), 8),
        Err(InFlightError::RingTooLong { .. })
    ));
}

#[test]
fn a_ring_that_began_anew_is_followed_only_with_nothing_in_flight() {
    let region = Region::new(RingKind::Split, 4);
    let mut log = region.split();
    log.recover(RingState { avail: 100, used: 100 }, 4).unwrap();
    let anew = region.split().recover(RingState { avail: 0, used: 0 }, 4).unwrap();
    assert_eq!(anew, SplitRecovery { next_avail: 0, heads: vec![] });
    log.taken(2);
    let error = region.split().recover(RingState { avail: 90, used: 90 }, 4).unwrap_err();
    assert!(matches!(error, InFlightError::Damaged { .. }), "{error}");
}
