//! What one request costs the device: the whole queue, from avail ring to used ring, over the null bdev.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin null-queue              nanoseconds, median with min-max
//!   valgrind --tool=callgrind --toggle-collect='*serve*' .../null-queue --count 100000
//!                                                                        instructions, the same on every machine
//! ```
//! Driver and device share one core here, and the driver does nothing but move the avail index on, so the number is the
//! device's work with warm caches: a floor, not a latency that a guest sees.

use std::time::Instant;

use spinblk_bdev::{Null, NullReads};
use spinblk_virtio::testing::{Buffer, Driver, Rig, header};

const QUEUE_SIZE: u16 = 256;
const REPEATS: usize = 7;
const REQUESTS: u64 = 2_000_000;

fn rig(indirect: bool) -> Rig {
    let bdev = match Null::new("null", 1 << 30, 512, NullReads::Untouched) {
        Ok(bdev) => bdev,
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1);
        }
    };
    let mut rig = Rig::new(Driver::new(QUEUE_SIZE, 8192, true, 0), &bdev);
    // As many chains as the table holds; then the same heads come round again and again.
    while rig
        .driver
        .submit(&[Buffer::Out(header(0, 8)), Buffer::In(4096), Buffer::In(1)], indirect, 64)
        .is_some()
    {}
    rig.drain();
    rig
}

/// Serves `requests` reads of 4 KiB, `depth` at a time.
#[inline(never)]
fn serve(rig: &mut Rig, depth: u16, requests: u64) {
    let mut index = rig.queue.state().avail;
    let mut served = 0;
    while served < requests {
        index = index.wrapping_add(depth);
        rig.driver.set_avail_index(index);
        while rig.queue.state().avail != index {
            rig.poll();
        }
        served += u64::from(depth);
    }
}

fn main() {
    let count =
        std::env::args().skip_while(|arg| arg != "--count").nth(1).and_then(|n| n.parse::<u64>().ok());
    if let Some(requests) = count {
        serve(&mut rig(true), 32, requests);
        println!("{requests} requests served");
        return;
    }
    println!("| chain | depth | ns per request (median, min-max of {REPEATS}) |\n|---|---|---|");
    for indirect in [true, false] {
        let mut rig = rig(indirect);
        for depth in [1u16, 4, 32, 64] {
            let mut ns: Vec<f64> = (0..REPEATS)
                .map(|_| {
                    let start = Instant::now();
                    serve(&mut rig, depth, REQUESTS);
                    start.elapsed().as_nanos() as f64 / REQUESTS as f64
                })
                .collect();
            ns.sort_by(f64::total_cmp);
            let chain = if indirect { "indirect" } else { "direct" };
            println!("| {chain} | {depth} | {:.1} ({:.1}-{:.1}) |", ns[REPEATS / 2], ns[0], ns[REPEATS - 1]);
        }
    }
}
