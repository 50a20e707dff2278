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
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use spinblk_bdev::Bdev;
use spinblk_benches::{
    CHAINS, Driver, Error, Shape, Spread, keep_log, main_with, null_disk, open_queue, pin, print_json,
    seconds,
};
use spinblk_reactor::{Config, Handle};
use spinblk_virtio::RingKind;

/// For setting a queue up.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_millis(100);

#[derive(Parser)]
#[command(about = "What the log of requests in flight takes of a disk's rate")]
struct Args {
    /// The driver's core and the reactor's
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    cores: Vec<usize>,
    /// Requests in flight
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,32")]
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
    /// Million requests per second.
    without: Spread,
    with: Spread,
    /// With a log over without, in each pair.
    ratio: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let [client, reactor] = args.cores[..] else {
        return Err(Error::Argument("--cores: two cores are wanted, such as 0,1".into()));
    };
    if let Some(depth) = args.depths.iter().find(|depth| !(1..=CHAINS).contains(*depth)) {
        return Err(Error::Argument(format!("--depths {depth}: 1 to {CHAINS} can be in flight")));
    }
    let time = seconds(args.seconds)?;
    let disk = null_disk()?;
    let mut rows = Vec::new();
    for kind in [RingKind::Split, RingKind::Packed] {
        let shape = Shape { kind, indirect: false, regions: 1 };
        for &depth in &args.depths {
            let mut rates = [Vec::new(), Vec::new()];
            for pair in 0..args.pairs {
                for step in 0..2 {
                    let logged = (pair + step) % 2;
                    let rate = measure(&disk, shape, [client, reactor], logged == 1, depth, time)?;
                    rates[logged].push(rate / 1e6);
                }
            }
            let ratios = rates[1].iter().zip(&rates[0]).map(|(with, without)| with / without).collect();
            let [without, with] = rates.map(Spread::of);
            rows.push(Row { shape: shape.name(), depth, without, with, ratio: Spread::of(ratios) });
        }
    }
    if args.json {
        return print_json(&rows);
    }
    println!(
        "driver on core {client}, reactor on core {reactor}, median (min-max) of {} pairs\n",
        args.pairs
    );
    println!("| chain | depth | M requests/s without a log | with | with / without |");
    println!("|---|---:|---:|---:|---:|");
    for Row { shape, depth, without, with, ratio } in rows {
        println!("| {shape} | {depth} | {without:.2} | {with:.2} | {ratio:.3} |");
    }
    Ok(())
}

/// Requests per second of one queue, with a reactor made for it.
fn measure(
    disk: &Arc<dyn Bdev>,
    shape: Shape,
    [client, reactor]: [usize; 2],
    logged: bool,
    depth: u16,
    time: Duration,
) -> Result<f64, Error> {
    let reactor = Handle::spawn(Config { claim: false, ..Config::new(reactor) })?;
    let (driver, disk) = (Driver::new(shape), disk.clone());
    let mut driver = reactor.call(CALL_LIMIT, move |reactor| {
        let mut queue = open_queue(&*disk, 1, &driver, &mut reactor.core.ring)?;
        if logged {
            keep_log(&mut queue, &driver)?;
        }
        reactor.add(Box::new(queue));
        Ok::<_, Error>(driver)
    })??;
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| {
            pin(client)?;
            driver.offer(depth);
            driver.drive(WARM_UP);
            Ok(driver.drive(time))
        });
        driver.join().unwrap_or(Err(Error::Panicked))
    })
}
