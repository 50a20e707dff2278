//! Every backend against a byte-array model: random operations, several in flight (never two that overlap), one or many
//! segments, aligned memory and not, registered buffers and not, and requests that must be refused.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ARENA_BYTES, Bench, Request, disk_dir, file_in, memory_dir, pattern};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use spinblk_bdev::{Aio, AioOptions, Bdev, Completion, Direct, IoError, Malloc, Null, NullReads, Op};
use spinblk_reactor::Hugepages;

const DISK_BYTES: u64 = 512 << 10;
const DEPTH: usize = 24;

/// A step before it is fitted to a disk; numbers are in blocks.
#[derive(Clone, Debug)]
struct Step {
    op: Op,
    block: u64,
    blocks: u64,
    /// Bytes off the block grid: makes the request one to be refused.
    off_grid: u64,
    cuts: Vec<usize>,
    skew: usize,
    fixed: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let op = prop_oneof![
        8 => Just(Op::Read),
        8 => Just(Op::Write),
        1 => Just(Op::Flush),
        1 => Just(Op::Discard),
        1 => any::<bool>().prop_map(|unmap| Op::WriteZeroes { unmap }),
    ];
    let off_grid = prop_oneof![20 => Just(0u64), 1 => 1u64..512];
    let skew = prop_oneof![4 => Just(0usize), 2 => Just(512usize), 1 => Just(4usize), 1 => 1usize..4096];
    let cut = prop_oneof![3 => (0usize..128).prop_map(|block| block * 512), 1 => 0usize..65536];
    let step = (
        op,
        0..DISK_BYTES / 512 + 20,
        0u64..128,
        off_grid,
        prop::collection::vec(cut, 0..6),
        skew,
        any::<bool>(),
    )
        .prop_map(|(op, block, blocks, off_grid, cuts, skew, fixed)| Step {
            op,
            block,
            blocks,
            off_grid,
            cuts,
            skew,
            fixed,
        });
    prop::collection::vec(step, 1..80)
}

impl Step {
    /// The request in the disk's own blocks.
    fn request(&self, block_size: u32) -> Request {
        let scale = u64::from(block_size) / 512;
        let len_bytes = self.blocks / scale * u64::from(block_size);
        let offset_bytes = self.block / scale * u64::from(block_size) + self.off_grid;
        let mut lens = Vec::new();
        if matches!(self.op, Op::Read | Op::Write) {
            let mut cuts: Vec<usize> = self.cuts.iter().map(|&cut| cut.min(len_bytes as usize)).collect();
            cuts.sort_unstable();
            cuts.push(len_bytes as usize);
            let mut from = 0;
            for cut in cuts {
                lens.push(cut - from);
                from = cut;
            }
        }
        Request { op: self.op, offset_bytes, len_bytes, lens, skew: self.skew, fixed: self.fixed }
    }
}

/// What the disk must hold; `None` for a byte that may read as anything.
struct Model {
    bytes: Vec<Option<u8>>,
    keeps_data: bool,
}

impl Model {
    fn set(&mut self, request: &Request, value: impl Fn(usize) -> Option<u8>) {
        let start = request.offset_bytes as usize;
        for index in 0..request.len_bytes as usize {
            self.bytes[start + index] = value(index);
        }
    }
}

/// A request under way and what must come of it.
struct Pending {
    request: Request,
    verdict: Result<(), IoError>,
    expected: Vec<Option<u8>>,
}

struct Run<'a> {
    bdev: &'a dyn Bdev,
    bench: Bench,
    model: Model,
    pending: Vec<Option<Pending>>,
}

impl Run<'_> {
    fn step(&mut self, request: Request, seed: u64) -> TestCaseResult {
        while self.must_wait(&request) {
            self.reap()?;
        }
        let tag = self.pending.iter().position(Option::is_none).unwrap();
        let verdict = self.verdict(&request);
        let len_bytes = request.lens.iter().sum();
        let data = if request.op == Op::Write { pattern(seed, len_bytes) } else { vec![0xEE; len_bytes] };
        self.bench.fill(tag as u32, request.skew, &data);
        let mut expected = Vec::new();
        if verdict.is_ok() {
            let start = request.offset_bytes as usize;
            match request.op {
                Op::Read => expected = self.model.bytes[start..start + len_bytes].to_vec(),
                Op::Write if self.model.keeps_data => self.model.set(&request, |index| Some(data[index])),
                Op::Discard if self.model.keeps_data => self.model.set(&request, |_| None),
                Op::WriteZeroes { .. } => self.model.set(&request, |_| Some(0)),
                _ => {}
            }
        }
        self.bench.submit(tag as u32, &request);
        self.pending[tag] = Some(Pending { request, verdict, expected });
        Ok(())
    }

    /// Whether all tags are taken, or something in flight overlaps.
    fn must_wait(&self, request: &Request) -> bool {
        let range = |r: &Request| (r.offset_bytes, r.offset_bytes + r.len_bytes);
        let (start, end) = range(request);
        let overlaps = |p: &Pending| {
            let (other_start, other_end) = range(&p.request);
            start < other_end && other_start < end
        };
        self.pending.iter().all(Option::is_some) || self.pending.iter().flatten().any(overlaps)
    }

    fn verdict(&self, request: &Request) -> Result<(), IoError> {
        let info = self.bdev.info();
        let supported = match request.op {
            Op::Flush => return Ok(()),
            Op::Discard => info.caps.discard,
            Op::WriteZeroes { .. } => info.caps.write_zeroes,
            _ => true,
        };
        let grid = u64::from(info.block_size);
        match request {
            _ if !supported => Err(IoError::Unsupported),
            r if r.offset_bytes % grid != 0 || r.len_bytes % grid != 0 => Err(IoError::Misaligned),
            r if r.offset_bytes + r.len_bytes > info.size_bytes() => Err(IoError::OutOfRange),
            _ => Ok(()),
        }
    }

    fn reap(&mut self) -> TestCaseResult {
        for Completion { tag, result } in self.bench.wait(1) {
            let pending = self.pending[tag as usize].take();
            prop_assert!(pending.is_some(), "tag {tag} completed without being in flight");
            let Pending { request, verdict, expected } = pending.unwrap();
            prop_assert_eq!(result, verdict, "{:?}", request);
            let got = self.bench.read_back(tag, request.skew, expected.len());
            for (index, (&got, want)) in got.iter().zip(&expected).enumerate() {
                if want.is_some_and(|want| want != got) {
                    prop_assert!(false, "byte {index} of {request:?}: {got:#x}, not {want:?}");
                }
            }
        }
        Ok(())
    }
}

fn conforms(bdev: &dyn Bdev, keeps_data: bool, steps: &[Step]) -> TestCaseResult {
    let model = Model { bytes: vec![Some(0); bdev.info().size_bytes() as usize], keeps_data };
    let bench = Bench::new(bdev, DEPTH);
    let mut run = Run { bdev, bench, model, pending: (0..DEPTH).map(|_| None).collect() };
    let block_size = bdev.info().block_size;
    for (seed, step) in steps.iter().enumerate() {
        run.step(step.request(block_size), seed as u64)?;
    }
    while run.pending.iter().any(Option::is_some) {
        run.reap()?;
    }
    let whole = ARENA_BYTES as u64;
    for offset_bytes in (0..bdev.info().size_bytes()).step_by(ARENA_BYTES) {
        run.step(Request::new(Op::Read, offset_bytes, whole as usize), 0)?;
        run.reap()?;
    }
    Ok(())
}

fn aio_conforms(dir: &std::path::Path, direct: Direct, block_size: u32, steps: &[Step]) -> TestCaseResult {
    let file = file_in(dir, DISK_BYTES);
    let options = AioOptions { direct, block_size: Some(block_size), ..AioOptions::default() };
    let bdev = Aio::open("aio", file.path(), options).unwrap();
    if direct == Direct::Off {
        assert!(!bdev.is_direct());
    }
    conforms(&bdev, true, steps)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn null(steps in steps()) {
        let bdev = Null::new("null", DISK_BYTES, 512, NullReads::Zeroes).unwrap();
        conforms(&bdev, false, &steps)?;
    }

    #[test]
    fn malloc(steps in steps(), block_size in prop_oneof![Just(512u32), Just(4096u32)]) {
        let bdev = Malloc::new("malloc", DISK_BYTES, block_size, Hugepages::Off).unwrap();
        conforms(&bdev, true, &steps)?;
    }

    #[test]
    fn aio_direct(steps in steps()) {
        aio_conforms(&disk_dir(), Direct::On, 512, &steps)?;
    }

    #[test]
    fn aio_direct_in_4096_byte_blocks(steps in steps()) {
        aio_conforms(&disk_dir(), Direct::On, 4096, &steps)?;
    }

    #[test]
    fn aio_buffered(steps in steps()) {
        aio_conforms(&disk_dir(), Direct::Off, 512, &steps)?;
    }

    #[test]
    fn aio_in_memory(steps in steps()) {
        aio_conforms(&memory_dir(), Direct::Auto, 512, &steps)?;
    }

    #[test]
    fn aio_in_memory_buffered(steps in steps()) {
        aio_conforms(&memory_dir(), Direct::Off, 512, &steps)?;
    }
}

/// Overwrites the block device named by `SPINBLK_TEST_BLOCK_DEVICE`, which should be small; a file of its own without it.
#[test]
fn aio_on_the_target_given() {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let given = std::env::var_os("SPINBLK_TEST_BLOCK_DEVICE");
    let path = given.map_or(file.path().to_owned(), std::path::PathBuf::from);
    let bdev = Aio::open("aio", path, AioOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    println!("{:?}, O_DIRECT {}", bdev.info(), bdev.is_direct());
    let config = ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config)
        .run(&steps(), |steps| {
            let mut bench = Bench::new(&bdev, 1);
            for offset_bytes in (0..bdev.info().size_bytes()).step_by(ARENA_BYTES) {
                bench.write(offset_bytes, &vec![0; ARENA_BYTES]).unwrap();
            }
            drop(bench);
            conforms(&bdev, true, &steps)
        })
        .unwrap();
}
