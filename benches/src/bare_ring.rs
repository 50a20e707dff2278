//! The physical reference: two cores that do nothing but a split ring's memory traffic.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin bare-ring [-- --cores 0,1] [--seconds 0.2]
//!
//!   driver: avail entry, avail.idx ──► device: reads both, writes used entry, used.idx ──► driver: reads both
//! ```
//! Both sides take all that they find and publish an index once per batch, which is the best that a device and a driver
//! can do. No device can serve a split ring faster on the same two cores; `ring` is that bound. The rows `block` add what
//! every block request carries besides: its 16-byte header is written by the driver and read by the device, and its
//! status byte goes the other way. Descriptors never change, so they stay in the device's cache and cost nothing here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RING_SIZE: usize = 512;
const DEPTHS: [u16; 4] = [1, 4, 32, 128];
const REPEATS: usize = 9;
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
fn device(shared: &Shared, with_block: bool) {
    let (mut next, mask) = (0u16, RING_SIZE as u16 - 1);
    while !shared.stop.0.load(Ordering::Relaxed) {
        let index = shared.avail.0[1].load(Ordering::Acquire);
        if index == next {
            continue;
        }
        while next != index {
            let at = usize::from(next & mask);
            let head = shared.avail.0[2 + at].load(Ordering::Relaxed);
            if with_block {
                let slot = usize::from((head / DESCS_PER_SLOT) & mask);
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

/// The driver: keeps `depth` requests in flight for so long; returns how many completed in a second.
fn driver(shared: &Shared, depth: u16, with_block: bool, time: Duration) -> f64 {
    let (mut next_avail, mut next_used, mask) = (0u16, 0u16, RING_SIZE as u16 - 1);
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
    for slot in 0..depth {
        index = put(slot * DESCS_PER_SLOT, 0);
    }
    shared.avail.0[1].store(index, Ordering::Release);
    let (began, mut polls, mut faults) = (Instant::now(), 0u32, 0u64);
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
        if polls.is_multiple_of(1024) && began.elapsed() >= time {
            assert!(faults == 0, "the device reported {faults} faults");
            return completed as f64 / began.elapsed().as_secs_f64();
        }
    }
}

/// One measurement, on two pinned threads.
fn measure(cores: [usize; 2], depth: u16, with_block: bool, time: Duration) -> f64 {
    let shared = Box::new(Shared::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(cores[1]);
            device(&shared, with_block);
        });
        let driver = scope.spawn(|| {
            pin(cores[0]);
            let rate = driver(&shared, depth, with_block, time);
            shared.stop.0.store(true, Ordering::Relaxed);
            rate
        });
        driver.join().unwrap_or(f64::NAN)
    })
}

fn pin(core: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        eprintln!("core {core} cannot be used; give two others with --cores A,B");
        std::process::exit(1);
    }
}

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

fn main() {
    let given: Vec<usize> = argument("--cores")
        .map(|list| list.split(',').filter_map(|core| core.parse().ok()).collect())
        .unwrap_or_else(|| vec![0, 1]);
    let [driver, device] = given[..] else {
        eprintln!("--cores: two cores are wanted, such as 0,1");
        std::process::exit(1);
    };
    let seconds = argument("--seconds").and_then(|text| text.parse().ok()).unwrap_or(0.2);
    println!("driver on core {driver}, device on core {device}; best (median, worst) of {REPEATS}\n");
    println!(
        "| traffic | depth | M requests/s | ns per request | ns per round trip |\n|---|---|---|---|---|"
    );
    for (name, with_block) in [("ring", false), ("block", true)] {
        for depth in DEPTHS {
            let one = |_| measure([driver, device], depth, with_block, Duration::from_secs_f64(seconds));
            let mut rates: Vec<f64> = (0..REPEATS).map(one).collect();
            rates.sort_by(f64::total_cmp);
            // What disturbs a run only ever slows it down: the best is what the cores can do.
            let (best, median, worst) = (rates[REPEATS - 1] / 1e6, rates[REPEATS / 2] / 1e6, rates[0] / 1e6);
            let (ns, round_trip_ns) = (1e3 / best, f64::from(depth) * 1e3 / best);
            println!(
                "| {name} | {depth} | {best:.2} ({median:.2}, {worst:.2}) | {ns:.1} | {round_trip_ns:.0} |"
            );
        }
    }
}
