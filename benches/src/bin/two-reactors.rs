//! One disk on one core, and on two: what a second reactor adds.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin two-reactors [-- --cores 0,1 --depth 32]
//!
//!   core 0:  driver ⇄ queue 0 ─┐
//!                              ├─► one null disk, shared
//!   core 1:  driver ⇄ queue 1 ─┘
//! ```
//! Each core has a queue of the disk and that queue's driver, polled in turn, so that nothing but the disk is shared. The
//! ratio is what both cores serve together over what either core serves alone, the mean of the two.

use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use spinblk_bdev::Bdev;
use spinblk_benches::{
    Device, Driver, Error, Shape, Spread, interleaved, main_with, null_disk, pin, print_json, seconds,
    two_cores,
};

#[derive(Parser)]
#[command(about = "What a second reactor adds to a disk")]
struct Args {
    /// The two cores
    #[arg(long, value_parser = two_cores, default_value = "0,1")]
    cores: [usize; 2],
    /// Requests together
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=128))]
    depth: u16,
    /// How often all three are measured
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Print results as JSON
    #[arg(long)]
    json: bool,
}

/// The results.
#[derive(Serialize)]
struct Results {
    depth: u16,
    /// Million requests per second: the first core alone, the second alone, both together.
    alone: [Spread; 2],
    together: Spread,
    /// Both over the mean of the two alone, in each repeat.
    ratio: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let [first, second] = args.cores;
    let time = seconds(args.seconds)?;
    let disk = null_disk()?;
    let mut cases: [&[usize]; 3] = [&[first], &[second], &[first, second]];
    let rates =
        interleaved(args.repeats, &mut cases, |cores| Ok(measure(&*disk, cores, args.depth, time)? / 1e6))?;
    let ratios = (0..args.repeats).map(|i| 2.0 * rates[2][i] / (rates[0][i] + rates[1][i])).collect();
    let [one, other, both] = [0, 1, 2].map(|case| Spread::of(rates[case].clone()));
    let results =
        Results { depth: args.depth, alone: [one, other], together: both, ratio: Spread::of(ratios) };
    if args.json {
        return print_json(&results);
    }
    println!("one null disk, depth {}, median (min-max) of {}\n", args.depth, args.repeats);
    println!("| reactors | M requests/s |\n|---|---:|");
    println!("| one, on core {first} | {:.2} |", results.alone[0]);
    println!("| one, on core {second} | {:.2} |", results.alone[1]);
    println!("| two, on cores {first} and {second} | {:.2} |", results.together);
    println!("\ntwo over one: {:.2}", results.ratio);
    Ok(())
}

/// Requests per second of all `cores` together, each with a queue and a driver of its own.
fn measure(disk: &dyn Bdev, cores: &[usize], depth: u16, time: Duration) -> Result<f64, Error> {
    let start = Barrier::new(cores.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .map(|&core| {
                let start = &start;
                scope.spawn(move || {
                    // All come to the barrier, or those that do would wait for ever.
                    let ready = ready(disk, core);
                    start.wait();
                    ready.map(|(mut driver, mut device)| serve(&mut driver, &mut device, depth, time))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Error::Panicked))).sum()
    })
}

fn ready(disk: &dyn Bdev, core: usize) -> Result<(Driver, Device), Error> {
    pin(core)?;
    let mut driver = Driver::new(Shape::USUAL);
    let mut device = Device::new(disk, &driver)?;
    device.serve(&mut driver, 1, 10_000);
    Ok((driver, device))
}

fn serve(driver: &mut Driver, device: &mut Device, depth: u16, time: Duration) -> f64 {
    let (began, before) = (Instant::now(), driver.answered());
    while began.elapsed() < time {
        device.serve(driver, depth, 64 * u64::from(depth));
    }
    (driver.answered() - before) as f64 / began.elapsed().as_secs_f64()
}
