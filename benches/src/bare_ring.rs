//! A split ring's memory traffic between two cores, and nothing else. The program `bare-ring` says what it is for.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use crate::{Error, pin};

/// Entries of the ring at most.
const RING_SIZE: usize = 512;
/// Entries that a ring has at least.
const MIN_ENTRIES: u16 = 4;
/// So that the list of stretches never grows while it is measured.
const MAX_STRETCHES: usize = 1 << 18;
/// Requests of a stretch at least: some tens of microseconds.
const STRETCH: u64 = 256;
/// A slot's descriptors in the ring, as the load generator lays them out.
const DESCS_PER_SLOT: u16 = 4;

/// Memory with the layout of a split ring; each part on cache lines of its own.
#[derive(Default)]
struct Shared {
    avail: Avail,
    used: Used,
    headers: Headers,
    statuses: Statuses,
    stop: Stop,
}

/// flags, idx, ring, as 16-bit words.
#[repr(align(128))]
struct Avail([AtomicU16; RING_SIZE + 2]);

/// flags and idx as one 32-bit word, then id and length of each entry.
#[repr(align(128))]
struct Used([AtomicU32; 2 * RING_SIZE + 1]);

/// Type and sector of each slot.
#[repr(align(128))]
struct Headers([[AtomicU64; 2]; RING_SIZE]);

#[repr(align(128))]
struct Statuses([AtomicU8; RING_SIZE]);

#[repr(align(128))]
#[derive(Default)]
struct Stop(AtomicBool);

macro_rules! default_as_zeroes {
    ($($name:ident),*) => {
        $(impl Default for $name {
            fn default() -> Self {
                Self(std::array::from_fn(|_| Default::default()))
            }
        })*
    };
}
default_as_zeroes!(Avail, Used, Headers, Statuses);

/// The device: answers whatever it finds.
fn device(shared: &Shared, load: Load) {
    let (mut next, mask, with_block) = (0u16, load.entries - 1, load.traffic == Traffic::Block);
    while !shared.stop.0.load(Ordering::Relaxed) {
        let index = shared.avail.0[1].load(Ordering::Acquire);
        if index == next {
            continue;
        }
        while next != index {
            let at = usize::from(next & mask);
            let head = shared.avail.0[2 + at].load(Ordering::Relaxed);
            if with_block {
                let slot = usize::from(head / DESCS_PER_SLOT) & (RING_SIZE - 1);
                let sector = shared.headers.0[slot][1].load(Ordering::Relaxed);
                shared.statuses.0[slot].store((sector >> 60) as u8, Ordering::Relaxed);
            }
            shared.used.0[1 + 2 * at].store(head.into(), Ordering::Relaxed);
            shared.used.0[2 + 2 * at].store(1, Ordering::Relaxed);
            next = next.wrapping_add(1);
        }
        shared.used.0[0].store(u32::from(next) << 16, Ordering::Release);
    }
}

/// Completed requests per second.
struct Rates {
    mean: f64,
    /// Of many short stretches, ascending: what the cores can do even if others use them, too.
    stretches: Vec<f64>,
}

/// The driver: keeps `depth` requests in flight for so long.
fn driver(shared: &Shared, load: Load, time: Duration) -> Rates {
    let (mut next_avail, mut next_used, mask) = (0u16, 0u16, load.entries - 1);
    let with_block = load.traffic == Traffic::Block;
    let mut completed = 0u64;
    let mut put = |head: u16, sector: u64| {
        if with_block {
            shared.headers.0[usize::from(head / DESCS_PER_SLOT)][1]
                .store(sector & 0xFFFF_FFFF, Ordering::Relaxed);
        }
        shared.avail.0[2 + usize::from(next_avail & mask)].store(head, Ordering::Relaxed);
        next_avail = next_avail.wrapping_add(1);
        next_avail
    };
    let mut index = 0;
    for slot in 0..load.depth {
        index = put(slot * DESCS_PER_SLOT, 0);
    }
    shared.avail.0[1].store(index, Ordering::Release);
    let (began, mut polls, mut faults) = (Instant::now(), 0u32, 0u64);
    let (mut stretch_began, mut stretch_completed) = (began, 0);
    let mut stretches = Vec::with_capacity(MAX_STRETCHES);
    loop {
        let used = (shared.used.0[0].load(Ordering::Acquire) >> 16) as u16;
        if used != next_used {
            while next_used != used {
                let at = usize::from(next_used & mask);
                let head = shared.used.0[1 + 2 * at].load(Ordering::Relaxed) as u16;
                if with_block {
                    let slot = usize::from(head / DESCS_PER_SLOT);
                    faults += u64::from(shared.statuses.0[slot].load(Ordering::Relaxed));
                }
                index = put(head, completed);
                next_used = next_used.wrapping_add(1);
                completed += 1;
            }
            shared.avail.0[1].store(index, Ordering::Release);
        }
        polls = polls.wrapping_add(1);
        if polls.is_multiple_of(1024) {
            let now = Instant::now();
            let count = completed - stretch_completed;
            if count >= STRETCH && stretches.len() < MAX_STRETCHES {
                stretches.push(count as f64 / (now - stretch_began).as_secs_f64());
                (stretch_began, stretch_completed) = (now, completed);
            }
            if now - began >= time {
                assert!(faults == 0, "the device reported {faults} faults");
                let mean = completed as f64 / (now - began).as_secs_f64();
                stretches.sort_by(f64::total_cmp);
                return Rates { mean, stretches };
            }
        }
    }
}

/// What each request carries.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// Ring entries alone
    Ring,
    /// A header and a status byte besides, as every block request
    Block,
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    traffic: Traffic,
    depth: u16,
    /// Of the ring: a power of two, not less than `depth`.
    entries: u16,
}

impl Load {
    /// `depth` requests in flight, each of which takes so many entries of the ring, 1 to 4.
    ///
    /// A driver takes no more entries than it needs: in a small ring, entries and index share a cache line.
    #[must_use]
    pub fn new(traffic: Traffic, depth: u16, entries_per_request: u16) -> Self {
        Self { traffic, depth, entries: (depth * entries_per_request).next_power_of_two().max(MIN_ENTRIES) }
    }
}

/// The result of one measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// What each request carried.
    pub traffic: Traffic,
    /// Requests in flight.
    pub depth: u16,
    /// Completed requests.
    pub requests_per_s: f64,
    /// From a request to its answer, on average.
    pub round_trip_ns: f64,
    /// The same in the middle one and in the quickest of many short stretches, which others on the cores disturb little.
    pub median_round_trip_ns: f64,
    /// See above.
    pub best_round_trip_ns: f64,
}

/// One measurement, on two pinned threads: the driver on the first core, the device on the second.
///
/// # Errors
/// [`Error::Core`], [`Error::Panicked`].
pub fn bare_ring(cores: [usize; 2], load: Load, time: Duration) -> Result<Measured, Error> {
    let shared = Box::new(Shared::default());
    let rates = std::thread::scope(|scope| {
        let answers = scope.spawn(|| pin(cores[1]).map(|()| device(&shared, load)));
        let asks = scope.spawn(|| {
            let rate = pin(cores[0]).map(|()| driver(&shared, load, time));
            shared.stop.0.store(true, Ordering::Relaxed);
            rate
        });
        let rate = asks.join().map_err(|_| Error::Panicked)?;
        answers.join().map_err(|_| Error::Panicked)??;
        rate
    })?;
    // A run too short for a stretch is one.
    let stretch = |index: usize| rates.stretches.get(index).copied().unwrap_or(rates.mean);
    let round_trip_ns = |rate: f64| f64::from(load.depth) * 1e9 / rate;
    Ok(Measured {
        traffic: load.traffic,
        depth: load.depth,
        requests_per_s: rates.mean,
        round_trip_ns: round_trip_ns(rates.mean),
        median_round_trip_ns: round_trip_ns(stretch(rates.stretches.len() / 2)),
        best_round_trip_ns: round_trip_ns(stretch(rates.stretches.len().saturating_sub(1))),
    })
}
