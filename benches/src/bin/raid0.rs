//! What striping adds to a request.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin raid0 [-- --repeats 9 --seconds 0.2]
//!   cargo xtask bench raid0                                                     instructions, too
//!
//!   null                    driven directly
//!   raid0 ─► 1, 2, 4 nulls  4 KiB: within one chunk, passed on as it is;  128 KiB: over two chunks, one I/O to each child
//! ```
//! The children answer at once and touch no data, so what is more than null's time is raid0's own.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde::Serialize;
use spinblk_bdev::{Bdev, Raid0};
use spinblk_benches::{
    DEPTH, Error, Spread, Stack, interleaved, main_with, ns_per_for, null_disk, pin, print_json, seconds,
};
use spinblk_load::Op;

const CHUNK_BYTES: u64 = 64 << 10;
const REQUESTS_KIB: [u32; 2] = [4, 128];
/// None stands for the null disk itself.
const CHILDREN: [usize; 4] = [0, 1, 2, 4];

#[derive(Parser)]
#[command(about = "What striping adds to a request")]
struct Args {
    /// The core to measure on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// How often each case is measured
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Print results as JSON
    #[arg(long)]
    json: bool,
    /// Serve this many requests, once, for a profiler; with --children, --kib
    #[arg(long)]
    count: Option<u64>,
    /// Children of the raid0; 0 for a null disk without
    #[arg(long, requires = "count", default_value_t = 1)]
    children: usize,
    /// Size of each request
    #[arg(long, requires = "count", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    kib: u32,
}

/// One line of results.
#[derive(Serialize)]
struct Row {
    kib: u32,
    children: usize,
    ns_per_request: Spread,
    /// Than the null disk's, in each repeat.
    more_ns: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| match args.count {
        Some(count) => profiled(&args, count),
        None => measured(&args),
    })
}

/// One run for a profiler, which looks at `Stack::turn` alone. More are served than asked for where the depth does not
/// divide the count.
fn profiled(args: &Args, count: u64) -> Result<(), Error> {
    let mut stack = Stack::open(&disk(args.children)?, Op::Read, args.kib << 10)?;
    (0..count.div_ceil(DEPTH.into())).try_for_each(|_| stack.turn())
}

fn measured(args: &Args) -> Result<(), Error> {
    pin(args.core)?;
    let time = seconds(args.seconds)?;
    let mut cases = Vec::new();
    for kib in REQUESTS_KIB {
        for children in CHILDREN {
            cases.push((kib, children, Stack::open(&disk(children)?, Op::Read, kib << 10)?));
        }
    }
    let results = interleaved(args.repeats, &mut cases, |(.., stack)| ns_per_for(time, || stack.turns()))?;
    let mut rows = Vec::new();
    for ((kib, children, _), ns) in cases.iter().zip(&results) {
        let null = cases.iter().position(|(size, children, _)| size == kib && *children == 0);
        let more = ns.iter().zip(&results[null.unwrap_or(0)]).map(|(ns, null_ns)| ns - null_ns);
        let (more_ns, ns_per_request) = (Spread::of(more.collect()), Spread::of(ns.clone()));
        rows.push(Row { kib: *kib, children: *children, ns_per_request, more_ns });
    }
    if args.json {
        return print_json(&rows);
    }
    println!("core {}, depth {DEPTH}, chunks of 64 KiB, median (min-max) of {}\n", args.core, args.repeats);
    println!("| request | disk | ns per request | more than null |\n|---|---|---:|---:|");
    for row in rows {
        println!("| {} KiB | {} | {} | {} |", row.kib, name(row.children), row.ns_per_request, row.more_ns);
    }
    Ok(())
}

fn disk(children: usize) -> Result<Arc<dyn Bdev>, Error> {
    if children == 0 {
        return null_disk();
    }
    let nulls = (0..children).map(|_| null_disk()).collect::<Result<_, _>>()?;
    Ok(Arc::new(Raid0::new("raid0", CHUNK_BYTES, nulls)?))
}

fn name(children: usize) -> String {
    match children {
        0 => "null".into(),
        1 => "raid0 over 1 null".into(),
        _ => format!("raid0 over {children} nulls"),
    }
}
