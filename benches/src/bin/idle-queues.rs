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
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use spinblk_bdev::Bdev;
use spinblk_benches::{
    CHAINS, Driver, Error, Shape, Spread, main_with, null_disk, open_queue, pin, print_json, seconds,
    two_cores,
};
use spinblk_reactor::{Config, Handle};

/// For setting a queue up.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const WARM_UP: Duration = Duration::from_millis(100);

#[derive(Parser)]
#[command(about = "What idle queues cost a busy one")]
struct Args {
    /// The driver's core and the reactor's
    #[arg(long, value_parser = two_cores, default_value = "0,1")]
    cores: [usize; 2],
    /// Requests in flight on the busy queue
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,32,128")]
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
    /// Million requests per second.
    alone: Spread,
    among_idle: Spread,
    /// Among idle ones over alone, in each repeat.
    ratio: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let [client, reactor] = args.cores;
    if let Some(depth) = args.depths.iter().find(|depth| !(1..=CHAINS).contains(*depth)) {
        return Err(Error::Argument(format!("--depths {depth}: 1 to {CHAINS} can be in flight")));
    }
    let time = seconds(args.seconds)?;
    let disk = null_disk()?;
    let mut rows = Vec::new();
    for &depth in &args.depths {
        let mut rates = [Vec::new(), Vec::new()];
        for repeat in 0..args.repeats {
            for step in 0..2 {
                let among_idle = (repeat + step) % 2;
                let queues = if among_idle == 1 { args.queues } else { 1 };
                rates[among_idle].push(measure(&disk, client, reactor, queues, depth, time)? / 1e6);
            }
        }
        let ratios = rates[1].iter().zip(&rates[0]).map(|(among_idle, alone)| among_idle / alone).collect();
        let [alone, among_idle] = rates.map(Spread::of);
        rows.push(Row { depth, queues: args.queues, alone, among_idle, ratio: Spread::of(ratios) });
    }
    if args.json {
        return print_json(&rows);
    }
    println!("driver on core {client}, reactor on core {reactor}, median (min-max) of {}\n", args.repeats);
    println!("| depth | M requests/s, 1 queue | M requests/s, {} queues | ratio |", args.queues);
    println!("|---:|---:|---:|---:|");
    for row in rows {
        println!("| {} | {:.2} | {:.2} | {:.3} |", row.depth, row.alone, row.among_idle, row.ratio);
    }
    Ok(())
}

/// Requests per second of the first of `queues`, with a reactor made for them.
fn measure(
    disk: &Arc<dyn Bdev>,
    client: usize,
    reactor: usize,
    queues: u16,
    depth: u16,
    time: Duration,
) -> Result<f64, Error> {
    let reactor = Handle::spawn(Config { claim: false, ..Config::new(reactor) })?;
    let mut busy = add_queue(&reactor, disk, queues)?;
    // Their drivers, which never offer anything, go; the queues keep the memory.
    (1..queues).try_for_each(|_| add_queue(&reactor, disk, queues).map(drop))?;
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| {
            pin(client)?;
            busy.offer(depth);
            busy.drive(WARM_UP);
            Ok(busy.drive(time))
        });
        driver.join().unwrap_or(Err(Error::Panicked))
    })
}

/// Sets one more queue of the disk up on the reactor.
fn add_queue(reactor: &Handle, disk: &Arc<dyn Bdev>, queues: u16) -> Result<Driver, Error> {
    let (driver, disk) = (Driver::new(Shape::USUAL), disk.clone());
    reactor.call(CALL_LIMIT, move |reactor| {
        let queue = open_queue(&*disk, queues, &driver, &mut reactor.core.ring)?;
        reactor.add(Box::new(queue));
        Ok(driver)
    })?
}
