//! One request at a time between two cores that do nothing else: the lines of a split ring against those of a packed one.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin packed-ring [-- --cores 0,1]
//!
//!   split    driver ──avail line──► device ──used line──► driver          each line has one writer
//!   packed   driver ──ring line───► device ──ring line──► driver          one line, which changes its writer twice
//! ```
//! Both carry the 16-byte header there and the status byte back, and both sides fence as a driver and a device must. Which is
//! faster is the processor's to say: whether it costs more to take a line over from its last writer than to go through two.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::time::Instant;

use clap::Parser;
use spinblk_benches::{Error, Spread, main_with, pin, two_cores};

/// Entries of either ring.
const ENTRIES: usize = 4;
/// Round trips of a stretch, and stretches of a repeat, of which the best counts: disturbances only ever slow one down.
const STRETCH: u64 = 1000;
const STRETCHES: usize = 100;
const REPEATS: usize = 9;
/// Packed descriptor flags (virtio 2.8.1), where they stand in a descriptor's second word.
const AVAIL: u64 = 1 << (48 + 7);
const USED: u64 = 1 << (48 + 15);

#[derive(Parser)]
#[command(about = "A split ring's lines against a packed ring's, one request at a time")]
struct Args {
    /// The driver's core and the device's
    #[arg(long, value_parser = two_cores, default_value = "0,1")]
    cores: [usize; 2],
}

/// A part of shared memory, on cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Lines<T>(T);

#[derive(Default)]
struct Shared {
    /// flags, idx, ring.
    avail: Lines<[AtomicU16; 2 + ENTRIES]>,
    /// flags and idx, then id and length of each entry.
    used: Lines<[AtomicU32; 1 + 2 * ENTRIES]>,
    /// Address, then length, id and flags.
    ring: Lines<[[AtomicU64; 2]; ENTRIES]>,
    header: Lines<[AtomicU64; 2]>,
    status: Lines<AtomicU8>,
    stop: Lines<AtomicBool>,
}

impl Shared {
    fn ask(&self, request: u64) {
        self.header.0[1].store(request, Ordering::Relaxed);
    }

    fn answer(&self) {
        let sector = self.header.0[1].load(Ordering::Relaxed);
        self.status.0.store((sector >> 60) as u8, Ordering::Relaxed);
    }

    fn stopping(&self) -> bool {
        self.stop.0.load(Ordering::Relaxed)
    }
}

/// A place of a packed ring and the wrap counter there.
#[derive(Clone, Copy)]
struct Place(usize, bool);

impl Place {
    fn next(self) -> Self {
        if self.0 + 1 < ENTRIES { Self(self.0 + 1, self.1) } else { Self(0, !self.1) }
    }

    fn available(self) -> u64 {
        if self.1 { AVAIL } else { USED }
    }

    fn used(self) -> u64 {
        if self.1 { AVAIL | USED } else { 0 }
    }
}

fn split_device(shared: &Shared) {
    let mut next = 0u16;
    while !shared.stopping() {
        if shared.avail.0[1].load(Ordering::Acquire) == next {
            continue;
        }
        let at = usize::from(next) % ENTRIES;
        let head = shared.avail.0[2 + at].load(Ordering::Relaxed);
        shared.answer();
        shared.used.0[1 + 2 * at].store(head.into(), Ordering::Relaxed);
        next = next.wrapping_add(1);
        shared.used.0[0].store(next.into(), Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

fn split_round_trip(shared: &Shared, next: &mut u16, request: u64) {
    shared.ask(request);
    let at = usize::from(*next) % ENTRIES;
    shared.avail.0[2 + at].store(0, Ordering::Relaxed);
    *next = next.wrapping_add(1);
    shared.avail.0[1].store(*next, Ordering::SeqCst);
    while shared.used.0[0].load(Ordering::Acquire) != u32::from(*next) {}
    std::hint::black_box(shared.used.0[1 + 2 * at].load(Ordering::Relaxed));
    std::hint::black_box(shared.status.0.load(Ordering::Relaxed));
}

fn packed_device(shared: &Shared) {
    let mut place = Place(0, true);
    while !shared.stopping() {
        let word = &shared.ring.0[place.0][1];
        if word.load(Ordering::Acquire) & (AVAIL | USED) != place.available() {
            continue;
        }
        shared.answer();
        word.store(place.used(), Ordering::Release);
        fence(Ordering::SeqCst);
        place = place.next();
    }
}

fn packed_round_trip(shared: &Shared, place: &mut Place, request: u64) {
    shared.ask(request);
    let word = &shared.ring.0[place.0][1];
    word.store(place.available(), Ordering::SeqCst);
    while word.load(Ordering::Acquire) & (AVAIL | USED) != place.used() {}
    std::hint::black_box(shared.status.0.load(Ordering::Relaxed));
    *place = place.next();
}

/// The best stretch's round trip in nanoseconds.
fn measure(
    cores: [usize; 2],
    device: fn(&Shared),
    mut round_trip: impl FnMut(&Shared, u64),
) -> Result<f64, Error> {
    let shared = Box::new(Shared::default());
    pin(cores[0])?;
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| pin(cores[1]).map(|()| device(&shared)));
        let mut best_ns = f64::INFINITY;
        for _ in 0..STRETCHES {
            let began = Instant::now();
            (0..STRETCH).for_each(|request| round_trip(&shared, request));
            best_ns = best_ns.min(began.elapsed().as_nanos() as f64 / STRETCH as f64);
        }
        shared.stop.0.store(true, Ordering::Relaxed);
        answers.join().map_err(|_| Error::Panicked)??;
        Ok(best_ns)
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let cores @ [driver, device] = args.cores;
    let (mut split, mut packed) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let mut next = 0;
        split.push(measure(cores, split_device, |shared, n| split_round_trip(shared, &mut next, n))?);
        let mut place = Place(0, true);
        packed.push(measure(cores, packed_device, |shared, n| packed_round_trip(shared, &mut place, n))?);
    }
    let ratios = packed.iter().zip(&split).map(|(packed, split)| packed / split).collect();
    println!("driver on core {driver}, device on core {device}, median (min-max) of {REPEATS}\n");
    println!("| ring | ns per round trip |\n|---|---:|");
    println!("| split | {:.0} |\n| packed | {:.0} |\n", Spread::of(split), Spread::of(packed));
    println!("packed over split: {:.2}", Spread::of(ratios));
    Ok(())
}
