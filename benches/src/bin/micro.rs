//! The parts, one by one: the ring, the mailbox, the reactor's idle loop.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin micro [-- --json]
//! ```
//! - `ring`: one read of 4 KiB through the whole queue over the null disk, 32 together, driver and device on one core
//!   (`null-queue` has more depths);
//! - `mailbox`: one message, posted and taken by one thread, and from core to core (half a round trip);
//! - `idle iteration`: a reactor that has nothing to do, with so many idle queues; what a queue adds is the difference.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use spinblk_benches::{
    Device, Driver, Error, Shape, Spread, interleaved, main_with, ns_per, null_disk, open_queue, pin,
    print_json,
};
use spinblk_reactor::{Config, Handle, Mailbox};
use spinblk_virtio::RingKind;

const REQUESTS: u64 = 500_000;
const DEPTH: u16 = 32;
const MESSAGES: u64 = 200_000;
const IDLE_TIME: Duration = Duration::from_millis(100);
const CALL_LIMIT: Duration = Duration::from_secs(20);

#[derive(Parser)]
#[command(about = "What the parts cost")]
struct Args {
    /// The core to measure on, and another one
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    cores: Vec<usize>,
    /// How often each is measured
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// Print results as JSON
    #[arg(long)]
    json: bool,
}

/// One thing to measure.
enum Case {
    Ring(Shape, Box<(Driver, Device)>),
    MailboxOnOneCore,
    MailboxAcrossCores,
    IdleIteration(u16),
}

/// One line of results.
#[derive(Serialize)]
struct Row {
    what: String,
    ns: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    let [core, other] = args.cores[..] else {
        return Err(Error::Argument("--cores: two cores are wanted, such as 0,1".into()));
    };
    // Both are tried before anything is measured.
    pin(other)?;
    pin(core)?;
    let mut cases = cases()?;
    let results = interleaved(args.repeats, &mut cases, |case| case.measure(other))?;
    let rows: Vec<Row> = cases
        .iter()
        .zip(results)
        .map(|(case, results)| Row { what: case.name(), ns: Spread::of(results) })
        .collect();
    if args.json {
        return print_json(&rows);
    }
    println!("cores {core} and {other}, median (min-max) of {}\n", args.repeats);
    println!("| what | ns |\n|---|---:|");
    rows.iter().for_each(|row| println!("| {} | {} |", row.what, row.ns));
    Ok(())
}

fn cases() -> Result<Vec<Case>, Error> {
    let disk = null_disk()?;
    let mut cases = Vec::new();
    for kind in [RingKind::Split, RingKind::Packed] {
        for (indirect, regions) in [(false, 1), (true, 1), (false, 8), (true, 8)] {
            let shape = Shape { kind, indirect, regions };
            let driver = Driver::new(shape);
            let device = Device::new(&*disk, &driver)?;
            cases.push(Case::Ring(shape, Box::new((driver, device))));
        }
    }
    cases.extend([Case::MailboxOnOneCore, Case::MailboxAcrossCores]);
    cases.extend([0, 1, 64].map(Case::IdleIteration));
    Ok(cases)
}

impl Case {
    fn name(&self) -> String {
        match self {
            Self::Ring(shape, _) => format!("ring: {}", shape.name()),
            Self::MailboxOnOneCore => "mailbox: post and take on one core".into(),
            Self::MailboxAcrossCores => "mailbox: from core to core".into(),
            Self::IdleIteration(queues) => format!("idle iteration, {queues} queues"),
        }
    }

    fn measure(&mut self, other: usize) -> Result<f64, Error> {
        match self {
            Self::Ring(_, ends) => {
                let (driver, device) = &mut **ends;
                Ok(ns_per(REQUESTS, || device.serve(driver, DEPTH, REQUESTS)))
            }
            Self::MailboxOnOneCore => Ok(mailbox_on_one_core()),
            Self::MailboxAcrossCores => mailbox_across(other),
            Self::IdleIteration(queues) => idle_iteration(other, *queues),
        }
    }
}

fn mailbox_on_one_core() -> f64 {
    let mailbox = Mailbox::new(64);
    ns_per(MESSAGES, || {
        for message in 0..MESSAGES {
            let taken = mailbox.post(message).ok().and_then(|()| mailbox.take());
            assert!(taken == Some(message), "the mailbox lost a message");
        }
    })
}

/// To a thread on the other core and back, through two mailboxes; half of it.
fn mailbox_across(other: usize) -> Result<f64, Error> {
    let (there, back) = (Mailbox::new(64), Mailbox::new(64));
    let await_in = |mailbox: &Mailbox<u64>| {
        loop {
            match mailbox.take() {
                Some(message) => return message,
                None => std::hint::spin_loop(),
            }
        }
    };
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            // It echoes wherever it runs, or the other end would wait for ever.
            let pinned = pin(other);
            for _ in 0..MESSAGES {
                let _ = back.post(await_in(&there));
            }
            pinned
        });
        // The first one waits until the thread is there.
        let _ = there.post(0);
        await_in(&back);
        let ns = ns_per(2 * (MESSAGES - 1), || {
            for message in 1..MESSAGES {
                let _ = there.post(message);
                await_in(&back);
            }
        });
        echo.join().map_err(|_| Error::Panicked)?.map(|()| ns)
    })
}

/// A reactor on a core, left alone for a while; this thread sleeps.
fn idle_iteration(core: usize, queues: u16) -> Result<f64, Error> {
    let reactor = Handle::spawn(Config { claim: false, ..Config::new(core) })?;
    for _ in 0..queues {
        let (driver, disk) = (Driver::new(Shape::USUAL), null_disk()?);
        reactor.call(CALL_LIMIT, move |reactor| {
            let queue = open_queue(&*disk, queues, &driver, &mut reactor.core.ring)?;
            reactor.add(Box::new(queue));
            Ok::<_, Error>(())
        })??;
    }
    // The count is published every thousand iterations: microseconds.
    let (began, before) = (Instant::now(), reactor.counters().iterations());
    std::thread::sleep(IDLE_TIME);
    let iterations = reactor.counters().iterations() - before;
    Ok(began.elapsed().as_nanos() as f64 / iterations.max(1) as f64)
}
