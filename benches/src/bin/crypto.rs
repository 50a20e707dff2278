//! What encryption leaves of aws-lc's own rate.
//!
//! ```text
//!   cargo run --release -p spinblk-benches --bin crypto [-- --repeats 9 --seconds 0.2]
//!
//!   aws-lc                 AES-256-XTS of one buffer after the other, key expanded once      the bound
//!   aws-lc, key each time  the same with the key expanded for each sector
//!   crypto over null       the same work asked for as requests: everything but aws-lc is ours
//!   crypto over malloc     and with the child's copy, anywhere on a disk larger than the caches
//!   malloc                 that copy alone
//! ```
//! Requests of 4 KiB, so many in flight, all on one core. aws-lc alone goes through as many buffers as requests are in flight,
//! which stay in the core's second cache. Reads are held against decryption, writes against encryption.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use spinblk_bdev::{Bdev, Crypto, CryptoOptions, Malloc, XtsKey};
use spinblk_benches::{
    DEPTH, Direction, Error, KEY_BYTES, Spread, Stack, Xts, interleaved, main_with, ns_per_for, null_disk,
    pin, print_json, seconds,
};
use spinblk_load::Op;
use spinblk_reactor::Hugepages;

const REQUEST_BYTES: usize = 4096;
const SECTORS_BYTES: [u32; 2] = [4096, 512];
const MALLOC_BYTES: u64 = 256 << 20;

#[derive(Parser)]
#[command(about = "What encryption leaves of aws-lc's own rate")]
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
}

/// What works.
enum Worker {
    Cipher(Box<Cipher>),
    Disk(Box<Stack>),
}

/// One thing to measure.
struct Case {
    op: Op,
    sector_bytes: u32,
    what: &'static str,
    worker: Worker,
}

/// One line of results.
#[derive(Serialize)]
struct Row {
    op: &'static str,
    sector_bytes: u32,
    what: &'static str,
    gb_per_s: Spread,
    m_iops: Spread,
    /// Its rate over aws-lc's with the key expanded once, in each repeat.
    over_aws_lc: Spread,
}

fn main() -> ExitCode {
    let args = Args::parse();
    main_with(|| run(&args))
}

fn run(args: &Args) -> Result<(), Error> {
    pin(args.core)?;
    let time = seconds(args.seconds)?;
    let mut cases = cases()?;
    let results = interleaved(args.repeats, &mut cases, |case| case.worker.ns_per_request(time))?;
    let rows = rows(&cases, &results);
    if args.json {
        return print_json(&rows);
    }
    println!("core {}, 4 KiB at depth {DEPTH}, median (min-max) of {}\n", args.core, args.repeats);
    println!("| load | sector | what | GB/s | M IOPS | rate over aws-lc's |\n|---|---:|---|---:|---:|---:|");
    for Row { op, sector_bytes, what, gb_per_s, m_iops, over_aws_lc } in rows {
        println!("| {op} | {sector_bytes} | {what} | {gb_per_s:.2} | {m_iops:.2} | {over_aws_lc:.2} |");
    }
    Ok(())
}

/// The first of each operation and sector size is what the others are held against.
fn cases() -> Result<Vec<Case>, Error> {
    let malloc: Arc<dyn Bdev> = Arc::new(Malloc::new("malloc", MALLOC_BYTES, 512, Hugepages::Try)?);
    let mut cases = Vec::new();
    for op in [Op::Read, Op::Write] {
        for sector_bytes in SECTORS_BYTES {
            let cipher = |with_key| Ok(Worker::Cipher(Box::new(Cipher::new(op, sector_bytes, with_key)?)));
            let disk = |bdev| Ok(Worker::Disk(Box::new(Stack::open(&bdev, op, REQUEST_BYTES as u32)?)));
            let workers: [(_, Result<Worker, Error>); 5] = [
                ("aws-lc", cipher(false)),
                ("aws-lc, key each time", cipher(true)),
                ("crypto over null", encrypted(null_disk()?, sector_bytes).and_then(disk)),
                ("crypto over malloc", encrypted(Arc::clone(&malloc), sector_bytes).and_then(disk)),
                ("malloc", disk(Arc::clone(&malloc))),
            ];
            for (what, worker) in workers {
                cases.push(Case { op, sector_bytes, what, worker: worker? });
            }
        }
    }
    Ok(cases)
}

fn encrypted(child: Arc<dyn Bdev>, sector_bytes: u32) -> Result<Arc<dyn Bdev>, Error> {
    // Temporary files are for their owner alone, as keys must be.
    let mut file = tempfile::NamedTempFile::new().map_err(Error::KeyFile)?;
    file.write_all(&key()).map_err(Error::KeyFile)?;
    let key = XtsKey::from_file("crypto", file.path())?;
    Ok(Arc::new(Crypto::new("crypto", key, CryptoOptions { sector_bytes, discard: false }, child)?))
}

/// Any will do whose halves differ.
fn key() -> [u8; KEY_BYTES] {
    std::array::from_fn(|at| at as u8)
}

fn rows(cases: &[Case], results: &[Vec<f64>]) -> Vec<Row> {
    let row = |(case, ns): (&Case, &Vec<f64>)| {
        let bound = cases.iter().position(|c| c.op == case.op && c.sector_bytes == case.sector_bytes);
        let bound_ns = &results[bound.unwrap_or(0)];
        Row {
            op: case.op.name(),
            sector_bytes: case.sector_bytes,
            what: case.what,
            gb_per_s: Spread::of(ns.iter().map(|ns| REQUEST_BYTES as f64 / ns).collect()),
            m_iops: Spread::of(ns.iter().map(|ns| 1e3 / ns).collect()),
            over_aws_lc: Spread::of(bound_ns.iter().zip(ns).map(|(bound_ns, ns)| bound_ns / ns).collect()),
        }
    };
    cases.iter().zip(results).map(row).collect()
}

impl Worker {
    fn ns_per_request(&mut self, time: Duration) -> Result<f64, Error> {
        match self {
            Self::Cipher(cipher) => ns_per_for(time, || cipher.round()),
            Self::Disk(stack) => ns_per_for(time, || stack.turns()),
        }
    }
}

/// A page of data, as far from the next one as a request's buffer is.
#[repr(align(4096))]
struct Page([u8; REQUEST_BYTES]);

/// aws-lc alone.
struct Cipher {
    xts: Xts,
    sector_bytes: usize,
    /// The key, if it is expanded again for each sector.
    each_time: Option<[u8; KEY_BYTES]>,
    pages: Vec<(Page, Page)>,
    sectors: u64,
}

impl Cipher {
    fn new(op: Op, sector_bytes: u32, with_key: bool) -> Result<Self, Error> {
        let direction = if op == Op::Read { Direction::Decrypt } else { Direction::Encrypt };
        let pair = |_| (Page([1; REQUEST_BYTES]), Page([2; REQUEST_BYTES]));
        Ok(Self {
            xts: Xts::new(&key(), direction)?,
            sector_bytes: sector_bytes as usize,
            each_time: with_key.then(key),
            pages: (0..DEPTH).map(pair).collect(),
            sectors: 0,
        })
    }

    /// All pages once; how many those are.
    fn round(&mut self) -> Result<u64, Error> {
        for (from, to) in &mut self.pages {
            let sectors = from.0.chunks_exact(self.sector_bytes);
            for (from, to) in sectors.zip(to.0.chunks_exact_mut(self.sector_bytes)) {
                if let Some(key) = &self.each_time {
                    self.xts.expand(key)?;
                }
                self.xts.sector(self.sectors, from, to)?;
                self.sectors += 1;
            }
        }
        Ok(self.pages.len() as u64)
    }
}
