//! What one request costs the device: the whole queue, from avail ring to used ring, over the null disk.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin null-queue [-- --json]     nanoseconds, median with min-max
//!   cargo xtask bench instructions                                          instructions, by part
//!
//!   driver and device on one core:  offer `depth` reads ─► Device::turn ─► collect
//! ```
//! Caches are warm and nothing crosses between cores, so the number is work: a floor, not a latency that a guest sees.
//! The driver's own work is measured alone (`driver ns`) and not subtracted.

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use spinblk_benches::{
    CHAINS, Device, Driver, Error, Shape, Spread, interleaved, main_with, ns_per, null_disk, pin, print_json,
};
use spinblk_virtio::RingKind;

const DEPTHS: [u16; 4] = [1, 4, 32, 128];

#[derive(Parser)]
#[command(about = "What one request costs the device")]
struct Args {
    /// The core to measure on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// How often each case is measured
    #[arg(long, default_value_t = 7)]
    repeats: usize,
    /// Requests of each measurement
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Print results as JSON
    #[arg(long)]
    json: bool,
    /// Serve this many requests, once, for a profiler; with --packed, --direct, --log, --regions, --depth
    #[arg(long)]
    count: Option<u64>,
    /// A packed ring
    #[arg(long, requires = "count")]
    packed: bool,
    /// Direct chains
    #[arg(long, requires = "count")]
    direct: bool,
    /// With a log of what is in flight
    #[arg(long, requires = "count")]
    log: bool,
    /// Regions of memory, up to 8
    #[arg(long, requires = "count", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    regions: u8,
    /// Requests together
    #[arg(long, requires = "count", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=128))]
    depth: u16,
}

/// One line of results.
#[derive(Serialize)]
struct Row {
    shape: String,
    depth: u16,
    ns_per_request: Spread,
    driver_ns: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| match args.count {
        Some(count) => profiled(&args, count),
        None => measured(&args),
    })
}

/// One run for a profiler, which looks at `Device::turn` alone. More are served than asked for where `depth` does not
/// divide the count.
fn profiled(args: &Args, count: u64) -> Result<(), Error> {
    let kind = if args.packed { RingKind::Packed } else { RingKind::Split };
    let shape = Shape { kind, indirect: !args.direct, regions: args.regions.into() };
    let mut driver = Driver::new(shape);
    let mut device = Device::new(&*null_disk()?, &driver)?;
    if args.log {
        device.keep_log(&driver)?;
    }
    // Warm; and nothing that happens once is in the time.
    device.serve(&mut driver, args.depth, count / 16);
    let ns_per_request = ns_per(count, || device.serve(&mut driver, args.depth, count));
    print_json(&serde_json::json!({
        "shape": shape.name(),
        "requests": driver.answered(),
        "ns_per_request": ns_per_request,
    }))
}

fn measured(args: &Args) -> Result<(), Error> {
    pin(args.core)?;
    let bdev = null_disk()?;
    let mut cases = Vec::new();
    for kind in [RingKind::Split, RingKind::Packed] {
        for (indirect, regions) in [(true, 1), (false, 1), (true, 8), (false, 8)] {
            let shape = Shape { kind, indirect, regions };
            for depth in DEPTHS {
                let driver = Driver::new(shape);
                let device = Device::new(&*bdev, &driver)?;
                cases.push((shape, depth, driver, device));
            }
        }
    }
    let work = interleaved(args.repeats, &mut cases, |(_, depth, driver, device)| {
        Ok(ns_per(args.requests, || device.serve(driver, *depth, args.requests)))
    })?;
    let drivers = interleaved(args.repeats, &mut cases, |(shape, depth, ..)| {
        // On a ring that no device reads, so that it is never answered.
        let mut driver = Driver::new(*shape);
        let offers = args.requests / u64::from(*depth);
        Ok(ns_per(offers * u64::from(*depth), || (0..offers).for_each(|_| driver.offer(*depth))))
    })?;
    let rows: Vec<Row> = cases
        .iter()
        .zip(work.into_iter().zip(drivers))
        .map(|((shape, depth, ..), (work, driver))| Row {
            shape: shape.name(),
            depth: *depth,
            ns_per_request: Spread::of(work),
            driver_ns: Spread::of(driver),
        })
        .collect();
    if args.json {
        return print_json(&rows);
    }
    println!("core {}, at most {CHAINS} in flight, median (min-max) of {}\n", args.core, args.repeats);
    println!("| chain | depth | ns per request | of it the driver's offer, ns |\n|---|---:|---:|---:|");
    for row in rows {
        println!("| {} | {} | {} | {} |", row.shape, row.depth, row.ns_per_request, row.driver_ns);
    }
    Ok(())
}
