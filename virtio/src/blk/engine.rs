//! The hot path of a queue: chains in, used entries out, generic over the ring's format.
//!
//! Every request has a slot, taken from a stack, so that the one used last, which the caches still hold, is used next.
//! A request that is done at once never leaves the top of the stack. Nothing is searched or allocated.

use spinblk_bdev::{Channel, Completion, MAX_SEGMENTS};
use spinblk_perf::BackendCounters;
use spinblk_reactor::Core;
use tracing::debug;

use super::account::{Account, Passed};
use super::request::SERIAL_BYTES;
use super::slot::Slot;
use super::usual::Usual;
use crate::QueueError;
use crate::chain::{Chain, ChainFault};
use crate::logged::{Log, Logged};
use crate::memory::CoreMemory;
use crate::virtqueue::Ring;

/// Chains taken per poll: keeps one busy queue from holding up its neighbours on the core.
const BATCH: u32 = 64;
/// Bytes after which a poll takes no more chains, for the same reason.
const BATCH_BYTES: u64 = 1 << 20;
/// Mappings asked for while one chain waits, one per segment at most; past that its buffers count as unmapped.
const MAX_PARKS: u8 = MAX_SEGMENTS as u8;

/// What a queue has to itself, but for its ring.
pub(super) struct Engine {
    pub(super) memory: CoreMemory,
    slots: Box<[Slot]>,
    free: Vec<u16>,
    pub(super) channel: Box<dyn Channel>,
    serial: [u8; SERIAL_BYTES],
    in_flight: usize,
    /// What the channel had counted when it was asked last, and polls that finished something since.
    counted: BackendCounters,
    uncounted_polls: u8,
    pub(super) parking: Parking,
    done: Vec<Completion>,
    pub(super) account: Account,
}

/// What a poll took.
pub(super) struct Taken {
    pub(super) requests: u32,
    /// Why it took no more, if there is more to it than that there was no more.
    pub(super) stop: Option<Stop>,
}

/// Why a queue takes nothing more for now.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// It waits for this address to be mapped.
    Park(u64),
    /// The driver broke the ring.
    Break(QueueError),
}

impl Engine {
    pub(super) fn new(
        memory: CoreMemory,
        channel: Box<dyn Channel>,
        serial: [u8; SERIAL_BYTES],
        size: u16,
    ) -> Self {
        // Those of one batch may finish at once, and all others in the same poll; twice, as one lot may wait for its interrupt.
        let room = 2 * (usize::from(size) + BATCH as usize);
        Self {
            memory,
            slots: (0..size).map(|_| Slot::default()).collect(),
            free: (0..size).rev().collect(),
            channel,
            serial,
            in_flight: 0,
            counted: BackendCounters::default(),
            uncounted_polls: 0,
            parking: Parking::default(),
            done: Vec::with_capacity(room),
            account: Account::new(room),
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// Whether every slot is taken.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Whether it is time to ask the channel for its counters: nothing is in flight any more, or much has gone by.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.uncounted_polls > 0 && (self.in_flight == 0 || self.uncounted_polls == u8::MAX)
    }

    /// What the channel has counted since this was asked last.
    pub(super) fn counted(&mut self) -> BackendCounters {
        self.uncounted_polls = 0;
        let channel = self.channel.counters();
        let counters = BackendCounters {
            fixed_buffer_ios: channel.fixed_buffer_ios,
            bounced_ios: channel.bounced_ios,
            polled_ios: channel.polled_ios,
            retries: channel.retries,
            no_space: channel.no_space,
            target_failures: channel.failed,
        };
        let before = std::mem::replace(&mut self.counted, counters);
        counters.since(before)
    }

    /// Whether the account may have no room for what the next poll finishes.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.account.is_crowded(self.slots.len() + BATCH as usize)
    }

    /// Takes a batch of chains and starts what they ask for.
    #[inline]
    pub(super) fn take<R: Ring>(&mut self, ring: &mut R, core: &mut Core) -> Taken {
        let (mut requests, mut bytes) = (0, 0);
        match ring.look() {
            Ok(true) => {}
            Ok(false) => return Taken { requests, stop: None },
            Err(e) => return Taken { requests, stop: Some(Stop::Break(e)) },
        }
        while requests < BATCH && bytes < BATCH_BYTES && ring.has_next() {
            let Some(&index) = self.free.last() else {
                let size = self.slots.len() as u16;
                return Taken { requests, stop: Some(Stop::Break(QueueError::TooMany { size })) };
            };
            let slot = &mut self.slots[usize::from(index)];
            let usual = ring.usual(&self.memory).filter(|_| !self.parking.is_open());
            let usual =
                usual.and_then(|(head, buffers)| Some((head, Usual::read(&mut self.memory, buffers)?)));
            let (head, what, done) = if let Some((head, usual)) = usual {
                (head, usual.what(), slot.start_usual(usual, index, &mut *self.channel, &mut core.ring))
            } else {
                let header = ring.walk(&mut self.memory, &mut slot.chain);
                if let Some(stop) = self.parking.judge(&slot.chain, ring.position()) {
                    return Taken { requests, stop: Some(stop) };
                }
                let done = slot.start(header, index, &mut *self.channel, &self.serial, &mut core.ring);
                (slot.chain.head(), slot.what, done)
            };
            match done {
                Some(result) => {
                    let ok = result.is_ok();
                    ring.answer(head, slot.finish(result));
                    if !self.account.joins(what, ok) {
                        self.account.begin(what, ok, requests);
                    }
                }
                None => {
                    (slot.head, slot.mark) = (head, ring.keep(head));
                    (slot.what, slot.passed) = (what, Passed::now(core, requests));
                    self.free.pop();
                    self.in_flight += 1;
                }
            }
            requests += 1;
            bytes += what.bytes;
        }
        Taken { requests, stop: None }
    }

    /// As `take`, out of the way of queues without a log; chains of the past come before new ones.
    #[inline(never)]
    pub(super) fn take_logged<L: Log>(&mut self, ring: &mut Logged<L>, core: &mut Core) -> Taken {
        match ring.past() {
            Some(mut past) => self.take(&mut past, core),
            None => self.take(ring, core),
        }
    }

    /// As `reap`, likewise.
    #[inline(never)]
    pub(super) fn reap_logged<R: Ring>(&mut self, ring: &mut R, core: &mut Core) {
        self.reap(ring, core);
    }

    /// Finishes what has ended since the last poll.
    #[inline]
    pub(super) fn reap<R: Ring>(&mut self, ring: &mut R, core: &mut Core) {
        if self.in_flight == 0 {
            return;
        }
        self.channel.poll(&mut core.ring, &mut self.done);
        if self.done.is_empty() {
            return;
        }
        let completed = core.clock.now();
        self.uncounted_polls = self.uncounted_polls.saturating_add(1);
        for Completion { tag, result } in self.done.drain(..) {
            let slot = &self.slots[tag as usize];
            let ok = result.is_ok();
            ring.push_used(slot.head, slot.mark, slot.finish(result));
            self.account.later(slot.what, ok, &slot.passed, completed);
            self.free.push(tag as u16);
            self.in_flight -= 1;
        }
    }

    /// Waits for what has ended without telling the driver.
    pub(super) fn reap_silently(&mut self, core: &mut Core) {
        if self.in_flight > 0 {
            self.channel.poll(&mut core.ring, &mut self.done);
            self.in_flight -= self.done.len();
            self.done.clear();
        }
    }
}

impl Drop for Engine {
    /// One that goes with I/O in flight (a reactor that ended in a panic) leaves behind what the kernel may still use.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            std::mem::forget(self.memory.map().clone());
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

/// The address that a queue parked for last, and how often it parked for the chain that it waits with.
#[derive(Default)]
pub(super) struct Parking {
    missing: Option<u64>,
    parks: u8,
}

impl Parking {
    #[inline]
    fn is_open(&self) -> bool {
        self.parks > 0
    }

    /// The address that it waits for.
    pub(super) fn missing(&self) -> Option<u64> {
        self.missing
    }

    /// Asks for nothing while the next chain waits: what is not mapped now counts as unmapped.
    pub(super) fn ask_nothing(&mut self) {
        self.parks = MAX_PARKS;
    }

    /// The question is asked again when the queue goes on; its answer may come too late or not at all.
    pub(super) fn ask_again(&mut self) {
        self.missing = None;
    }

    /// What becomes of a chain; `None`: it is served, be it with an error.
    #[cold]
    fn judge(&mut self, chain: &Chain, position: u16) -> Option<Stop> {
        if let Some(fault) = chain.fault() {
            if let ChainFault::Unmapped(iova) = fault
                && self.missing != Some(iova)
                && self.parks < MAX_PARKS
            {
                self.missing = Some(iova);
                self.parks += 1;
                return Some(Stop::Park(iova));
            }
            debug!("request at position {position}: {fault}");
            if chain.is_broken() {
                return Some(Stop::Break(QueueError::BadChain { position, fault }));
            }
        }
        *self = Self::default();
        None
    }
}
