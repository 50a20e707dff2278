//! What the log of requests in flight takes of a disk's rate: the null disk with a log, and without.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin in-flight-log [-- --cores 0,1 --depths 1,32 --pairs 10]
//!
//!   core 0: driver   ⇄   core 1: one reactor with one queue, which keeps a log or none
//! ```
//! The log is chosen when the queue is set up, so both are the same program. Runs are in pairs, each with a reactor made
//! for it; the ratio is of the two runs of a pair, which of them is first changes from pair to pair.

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use spinblk_benches::{
    CHAINS, Error, Pair, Shape, add_queue, keep_log, main_with, null_disk, print_json, rate_across, seconds,
    two_cores,
};
use spinblk_virtio::RingKind;

#[derive(Parser)]
#[command(about = "What the log of requests in flight takes of a disk's rate")]
struct Args {
    /// The driver's core and the reactor's
    #[arg(long, value_parser = two_cores, default_value = "0,1")]
    cores: [usize; 2],
    /// Requests in flight
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,32",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(CHAINS)))]
    depths: Vec<u16>,
    /// How many pairs are run
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// How long each run takes
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Print results as JSON
    #[arg(long)]
    json: bool,
}

/// The results of one shape at one depth.
#[derive(Serialize)]
struct Row {
    shape: String,
    depth: u16,
    /// Million requests per second without a log, and with one.
    rates: Pair,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let time = seconds(args.seconds)?;
    let disk = null_disk()?;
    let mut rows = Vec::new();
    for kind in [RingKind::Split, RingKind::Packed] {
        let shape = Shape { kind, indirect: false, regions: 1 };
        for &depth in &args.depths {
            let rates = Pair::measure(args.pairs, |logged| {
                let rate =
                    rate_across(args.cores, depth, time, |reactor| {
                        add_queue(reactor, &disk, 1, shape, move |queue, driver| {
                            if logged { keep_log(queue, driver) } else { Ok(()) }
                        })
                    });
                Ok(rate? / 1e6)
            })?;
            rows.push(Row { shape: shape.name(), depth, rates });
        }
    }
    if args.json {
        return print_json(&rows);
    }
    let [client, reactor] = args.cores;
    println!(
        "driver on core {client}, reactor on core {reactor}, median (min-max) of {} pairs\n",
        args.pairs
    );
    println!("| chain | depth | M requests/s without a log | with | with / without |");
    println!("|---|---:|---:|---:|---:|");
    for Row { shape, depth, rates } in rows {
        let Pair { first, second, ratio } = rates;
        println!("| {shape} | {depth} | {first:.2} | {second:.2} | {ratio:.3} |");
    }
    Ok(())
}
