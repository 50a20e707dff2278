//! The physical reference: two cores that do nothing but a split ring's memory traffic.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin bare-ring [-- --cores 0,1 --seconds 0.2]              a table
//!   cargo run --release -p spinblk-benches --bin bare-ring -- --json --depth 32 --traffic block        one number
//!
//!   driver: avail entry, avail.idx ──► device: reads both, writes used entry, used.idx ──► driver: reads both
//! ```
//! Both sides take all that they find and publish an index once per batch, which is the best that a device and a driver
//! can do. The ring is as long as the load generator makes it, for in a short one entries and index share cache lines.
//! No device can serve a split ring faster on the same two cores; `ring` is that bound. The rows `block` add what
//! every block request carries besides: its 16-byte header is written by the driver and read by the device, and its
//! status byte goes the other way. Descriptors never change, so they stay in the device's cache and cost nothing here.

use std::process::ExitCode;

use clap::Parser;
use spinblk_benches::{Error, Load, Traffic, bare_ring, main_with, print_json, seconds, two_cores};

const DEPTHS: [u16; 4] = [1, 4, 32, 128];
const REPEATS: usize = 9;

#[derive(Parser)]
#[command(about = "A split ring's memory traffic between two cores: the physical reference")]
struct Args {
    /// The driver's core and the device's
    #[arg(long, value_parser = two_cores, default_value = "0,1")]
    cores: [usize; 2],
    /// How long each measurement takes
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Measure once and print JSON; with --depth and --traffic
    #[arg(long)]
    json: bool,
    /// Requests in flight
    #[arg(long, requires = "json", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=128))]
    depth: u16,
    /// Ring entries of each request: 4 as the load generator lays direct chains out, 1 for indirect ones
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4))]
    entries: u16,
    /// What each request carries
    #[arg(long, requires = "json", default_value = "block")]
    traffic: Traffic,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let [driver, device] = args.cores;
    let time = seconds(args.seconds)?;
    if args.json {
        return print_json(&bare_ring(
            [driver, device],
            Load::new(args.traffic, args.depth, args.entries),
            time,
        )?);
    }
    println!("driver on core {driver}, device on core {device}; best (median, worst) of {REPEATS}\n");
    println!(
        "| traffic | depth | M requests/s | ns per request | ns per round trip |\n|---|---|---|---|---|"
    );
    for (name, traffic) in [("ring", Traffic::Ring), ("block", Traffic::Block)] {
        for depth in DEPTHS {
            let load = Load::new(traffic, depth, args.entries);
            let one = |_| Ok(bare_ring([driver, device], load, time)?.requests_per_s);
            let mut rates = (0..REPEATS).map(one).collect::<Result<Vec<f64>, Error>>()?;
            rates.sort_by(f64::total_cmp);
            // What disturbs a run only ever slows it down: the best is what the cores can do.
            let (best, median, worst) = (rates[REPEATS - 1] / 1e6, rates[REPEATS / 2] / 1e6, rates[0] / 1e6);
            let (ns, round_trip_ns) = (1e3 / best, f64::from(depth) * 1e3 / best);
            println!(
                "| {name} | {depth} | {best:.2} ({median:.2}, {worst:.2}) | {ns:.1} | {round_trip_ns:.0} |"
            );
        }
    }
    Ok(())
}
