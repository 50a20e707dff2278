//! What idle queues cost a busy one: a disk with one queue, and the same with 63 idle ones beside it.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin idle-queues [-- --cores 0,1 --depths 1,32,128]
//!
//!   core 0: driver of queue 0   ⇄   core 1: one reactor that polls queue 0, and 63 more whose rings stay empty
//! ```
//! All queues are set up and running, each with its own rings in its own memory. Two reactors are made, one after the
//! other, for each repeat; the ratio is of the two measurements of a repeat.

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use spinblk_benches::{
    CHAINS, Error, Pair, Shape, add_queue, main_with, null_disk, print_json, rate_across, seconds, two_cores,
};

#[derive(Parser)]
#[command(about = "What idle queues cost a busy one")]
struct Args {
    /// The driver's core and the reactor's
    #[arg(long, value_parser = two_cores, default_value = "0,1")]
    cores: [usize; 2],
    /// Requests in flight on the busy queue
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,32,128",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(CHAINS)))]
    depths: Vec<u16>,
    /// Queues of the disk, the busy one among them
    #[arg(long, default_value_t = 64)]
    queues: u16,
    /// How often each pair is measured
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Print results as JSON
    #[arg(long)]
    json: bool,
}

/// The results at one depth.
#[derive(Serialize)]
struct Row {
    depth: u16,
    queues: u16,
    /// Million requests per second alone, and among idle ones.
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
    for &depth in &args.depths {
        let rates = Pair::measure(args.repeats, |among_idle| {
            let queues = if among_idle { args.queues } else { 1 };
            let rate = rate_across(args.cores, depth, time, |reactor| {
                let add = || add_queue(reactor, &disk, queues, Shape::USUAL, |_, _| Ok(()));
                let busy = add()?;
                // The drivers of these never offer anything.
                (1..queues).try_for_each(|_| add().map(drop))?;
                Ok(busy)
            });
            Ok(rate? / 1e6)
        })?;
        rows.push(Row { depth, queues: args.queues, rates });
    }
    if args.json {
        return print_json(&rows);
    }
    let [client, reactor] = args.cores;
    println!("driver on core {client}, reactor on core {reactor}, median (min-max) of {}\n", args.repeats);
    println!("| depth | M requests/s, 1 queue | M requests/s, {} queues | ratio |", args.queues);
    println!("|---:|---:|---:|---:|");
    for Row { depth, rates, .. } in rows {
        let Pair { first, second, ratio } = rates;
        println!("| {depth} | {first:.2} | {second:.2} | {ratio:.3} |");
    }
    Ok(())
}
