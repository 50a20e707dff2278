//! The log of requests in flight, in memory that outlives this process, so that its successor can do them again.
//!
//! The layout and the order of steps are those of the vhost-user protocol ("Inflight I/O tracking"); all integers are in
//! the host's byte order.
//!
//! ```text
//!   split:   features 8 │ version 2 │ desc_num 2 │ last_batch_head 2 │ used_idx 2 │ desc[desc_num] of 16 bytes
//!            desc:   inflight 1 │ - 5 │ next 2 │ counter 8
//!   packed:  features 8 │ version 2 │ desc_num 2 │ free_head 2 │ old_free_head 2
//!            │ used_idx 2 │ old_used_idx 2 │ used_wrap 1 │ old_used_wrap 1 │ - 10 │ desc[desc_num] of 32 bytes
//!            desc:   inflight 1 │ - 1 │ next 2 │ last 2 │ num 2 │ counter 8 │ id 2 │ flags 2 │ len 4 │ addr 8
//! ```
//!
//! # Use
//!
//! A log is made once ([`InFlightLog::new`]) and asked once what to do again (`recover`), before anything else. Then, on the
//! queue's reactor:
//!
//! ```text
//!   a request goes on:   taken ──► ... ──► returning ──┐
//!   split, done at once: answered ─────────────────────┴──► publishing ──► used.idx stored ──► returned
//!
//!   a request goes on:   taken → slot ──► returning ... ──► publishing ──► first flags stored ──► returned
//!   packed, done at once: answered ──► show_answers: each noted, its flags stored ─────────────► returned
//! ```
//! - `taken` comes after its request was started, and after all that was taken before it was noted itself or shown to the
//!   driver (`returned`).
//! - `returning` and `publishing` come in the order of the used entries; from `publishing` to `returned` nothing is taken.
//! - A packed chain is answered with nothing in the batch, and shown alone.
//! - `recover` also says where the ring goes on: what the client believes is older than what the log knows, and is used
//!   only with a fresh log. A packed ring needs one thing more before its first poll: places between `used` and `avail`
//!   of the recovered state may hold used descriptors of a batch that was never shown. The flags of each have to be made
//!   "available" again, else the driver finds them behind the first chain that is returned now ([`PackedLog::recover`]).
//!
//! # What need not be noted
//!
//! A successor goes on in the ring behind what was shown and what is noted: it adds up their numbers. So the two together
//! have to be the beginning of all that was taken, at any moment, and what was taken behind them is simply taken again: the
//! driver touches neither ring entries nor descriptors before it is shown that they were used.
//!
//! ```text
//!   taken in this order:   │ shown │ noted │ shown │ noted │ done at once │ started now │ still in the ring
//!                          └──── what the log tells ───────┘└── a successor takes these again ─────────────
//! ```
//! A request that is done in the moment in which it is started needs no note if it is shown before anything behind it is
//! noted. A split batch of those leaves three stores in the log, for all of it (`split.rs`). In a packed ring
//! a used descriptor overwrites a chain, which is lost if the driver is not shown that; so each is shown alone, behind
//! one store that says what the successor may find there, but all of a batch one right behind the other: a driver that
//! takes them while the device is at the next request would have the lines go back and forth, which cost two thirds of the
//! rate.
//!
//! # Promise
//!
//! Whichever instruction the writer dies at, a successor that does what `recover` gives, and then what it finds in the
//! ring from there on, does exactly the chains that were not shown to the driver, in the order in which they were taken.
//! So each request is done at least once, and returned once. Tests cut random histories at every store (`tests/`).
//!
//! This needs the stores to happen in program order. The dead process's stores have all happened up to some instruction,
//! on any processor; it is the compiler that must not reorder them, so each is an atomic store with Release ordering,
//! which on x86 is an ordinary one. Words that change together (both used indices and wrap counters) are one store.
//!
//! # Trust
//!
//! The client can write the region at any time. While a queue runs nothing is read from it: lists are followed in private
//! copies. `recover` copies each field once, checks the copy and uses only that. The worst that a client gets is its own
//! requests done twice or not at all.

mod packed;
mod packed_recovery;
mod split;
#[cfg(test)]
mod tests;
mod words;

use std::any::Any;
use std::sync::Arc;

pub(crate) use packed::PackedLog;
pub(crate) use packed_recovery::SavedChain;
pub(crate) use split::SplitLog;
use words::Words;

use crate::RingKind;

/// The only version of the layout that there is.
const VERSION: u16 = 1;
/// Regions of a client's queues lie one behind the other at multiples of this.
const ALIGN_BYTES: usize = 64;
/// The largest ring.
const MAX_ENTRIES: u16 = 1 << 15;

/// Offsets that both layouts have in common.
const FEATURES: usize = 0;
const VERSION_AT: usize = 8;
const DESC_NUM: usize = 10;

/// One queue's log.
pub enum InFlightLog {
    /// Of a split ring.
    Split(SplitLog),
    /// Of a packed ring.
    Packed(PackedLog),
}

/// Why a region cannot serve as a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InFlightError {
    /// A region that is too short.
    #[error("its in-flight log has {len_bytes} bytes, {entries} entries need {need_bytes}")]
    TooShort {
        /// What there is.
        len_bytes: usize,
        /// What there should be.
        need_bytes: usize,
        /// Entries of the log.
        entries: u16,
    },
    /// A region that does not begin at a multiple of 8 bytes.
    #[error(
        "its in-flight log begins at an odd address; an offset in the file that is a multiple of 64 is wanted"
    )]
    Misaligned,
    /// A number of entries that no ring has.
    #[error("an in-flight log of {0} entries; 1 to 32768 are possible")]
    BadSize(u16),
    /// A log that another program wrote, in a layout that is not known here.
    #[error("its in-flight log has version {0}; version 1 is known here: hand over an empty log")]
    Version(u16),
    /// As above.
    #[error("its in-flight log uses features {0:#x}, none are known here: hand over an empty log")]
    Features(u64),
    /// A log that was made for another ring.
    #[error("its in-flight log was made for {found} entries, {wanted} are wanted: hand over an empty log")]
    WrongSize {
        /// What the log says.
        found: u16,
        /// What it should say.
        wanted: u16,
    },
    /// A ring that does not fit into its log.
    #[error("a ring of {ring} entries has an in-flight log of {log}")]
    RingTooLong {
        /// Entries of the ring.
        ring: u16,
        /// Entries of the log.
        log: u16,
    },
    /// A log for rings of the other format.
    #[error("its in-flight log was made for rings of the other format: hand over an empty log")]
    WrongKind,
    /// A log that does not go with its ring, or was damaged.
    #[error("its in-flight log is damaged or of another ring: {what} {value}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// The value at fault.
        value: u64,
    },
}

/// What every log has: the region, and what is known of it.
struct Region {
    words: Words,
    /// Descriptors that it has room for.
    entries: u16,
    /// Nobody has written it yet.
    fresh: bool,
}

impl InFlightLog {
    /// What one queue's region takes of the shared memory, rounded up to where the next one begins.
    #[must_use]
    pub fn region_len_bytes(kind: RingKind, queue_size: u16) -> usize {
        need_bytes(kind, queue_size).next_multiple_of(ALIGN_BYTES)
    }

    /// The log in `[host, host + len_bytes)`, which `keep` keeps mapped. A region whose version is zero is fresh, and is
    /// written with the first `recover`.
    ///
    /// # Errors
    /// [`InFlightError`] for a region of another version or size.
    ///
    /// # Safety
    /// The range must be mapped, shared and writable, for as long as `keep` lives, and hold no Rust object that anyone
    /// has a reference to. Other processes may write it at any time.
    pub unsafe fn new(
        kind: RingKind,
        host: *mut u8,
        len_bytes: usize,
        queue_size: u16,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self, InFlightError> {
        if !(1..=MAX_ENTRIES).contains(&queue_size) {
            return Err(InFlightError::BadSize(queue_size));
        }
        let need_bytes = need_bytes(kind, queue_size);
        if len_bytes < need_bytes {
            return Err(InFlightError::TooShort { len_bytes, need_bytes, entries: queue_size });
        }
        if !host.addr().is_multiple_of(align_of::<u64>()) {
            return Err(InFlightError::Misaligned);
        }
        // SAFETY: mapped for as long as `keep` lives (our caller), long enough and aligned (just checked).
        let words = unsafe { Words::new(host, need_bytes, keep) };
        let region = Region::open(words, queue_size)?;
        Ok(match kind {
            RingKind::Split => Self::Split(SplitLog::new(region)),
            RingKind::Packed => Self::Packed(PackedLog::new(region)),
        })
    }

    /// Forgets everything: the driver has reset the device, and whoever opens the region next finds it fresh.
    pub fn erase(self) {
        let (Self::Split(SplitLog { region, .. }) | Self::Packed(PackedLog { region, .. })) = self;
        region.words.store_u16(VERSION_AT, 0);
    }
}

impl Region {
    fn open(words: Words, entries: u16) -> Result<Self, InFlightError> {
        let fresh = match words.load_u16(VERSION_AT) {
            0 => true,
            VERSION => false,
            other => return Err(InFlightError::Version(other)),
        };
        if !fresh {
            let (features, found) = (words.load_u64(FEATURES), words.load_u16(DESC_NUM));
            if features != 0 {
                return Err(InFlightError::Features(features));
            }
            if found != entries {
                return Err(InFlightError::WrongSize { found, wanted: entries });
            }
        }
        Ok(Self { words, entries, fresh })
    }

    fn check_ring(&self, ring: u16) -> Result<(), InFlightError> {
        if !(1..=self.entries).contains(&ring) {
            return Err(InFlightError::RingTooLong { ring, log: self.entries });
        }
        Ok(())
    }
}

fn need_bytes(kind: RingKind, queue_size: u16) -> usize {
    match kind {
        RingKind::Split => split::need_bytes(queue_size),
        RingKind::Packed => packed::need_bytes(queue_size),
    }
}

/// Four 16-bit fields that lie side by side, to be stored at once.
fn side_by_side(fields: [u16; 4]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.chunks_exact_mut(2).zip(fields) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    u64::from_ne_bytes(bytes)
}

/// The fields of such a word.
fn apart(word: u64) -> [u16; 4] {
    let bytes = word.to_ne_bytes();
    [0, 2, 4, 6].map(|at| u16::from_ne_bytes([bytes[at], bytes[at + 1]]))
}
