//! The generator over bdevs: whole runs, with contents checked, and with disks that lie.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use common::{cores, job, run_whole};
use spinblk_bdev::{
    Aio, AioOptions, Bdev, Channel, Completion, Error, Info, Io, IoError, IoResult, Malloc, Null, NullReads,
    Op,
};
use spinblk_load::{Access, BdevTarget, Interval, Job, Outcome, VerifyCounts, run};
use spinblk_reactor::{Hugepages, Ring};

const MIB: u64 = 1 << 20;

fn malloc() -> Arc<dyn Bdev> {
    Arc::new(Malloc::new("m0", 4 * MIB, 512, Hugepages::Off).unwrap())
}

fn verify(job: &Job, bdev: Arc<dyn Bdev>) -> (Outcome, VerifyCounts) {
    let outcome =
        run_whole(&Job { verify: true, ..job.clone() }, &BdevTarget::new(bdev, Hugepages::Off)).unwrap();
    let mut sum = VerifyCounts::default();
    for counts in outcome.lanes.iter().filter_map(|lane| lane.verify.clone()) {
        sum.written += counts.written;
        sum.checked += counts.checked;
        sum.mismatches += counts.mismatches;
        sum.first = sum.first.or(counts.first);
    }
    (outcome, sum)
}

#[test]
fn every_pattern_verifies_on_an_honest_disk() {
    for access in [Access::Random, Access::Sequential] {
        for read_percent in [0, 50, 100] {
            for (queues, block_bytes) in [(1, 4096), (3, 512), (2, 65536)] {
                let job = Job { access, read_percent, queues, block_bytes, ..job() };
                let (outcome, counts) = verify(&job, malloc());
                assert!(outcome.is_clean(), "{job:?} {counts:?}");
                assert!(counts.written > 0 && counts.checked > 0, "{job:?} {counts:?}");
                assert_eq!(outcome.lanes.len(), usize::from(queues));
                assert!(outcome.lanes.iter().all(|lane| lane.all().ios > 0 && lane.all().errors == 0));
            }
        }
    }
}

#[test]
fn aio_verifies_too_and_two_cores_share_the_queues() {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(4 * MIB).unwrap();
    let bdev = Arc::new(Aio::open("a0", file.path(), AioOptions::default()).unwrap());
    let cores = cores(2);
    let job = Job { read_percent: 50, queues: 3, cores: cores.clone(), ..job() };
    let (outcome, counts) = verify(&job, bdev);
    assert!(outcome.is_clean(), "{counts:?}");
    let used: Vec<usize> = outcome.lanes.iter().map(|lane| lane.core).collect();
    assert_eq!(used, [cores[0], cores[1 % cores.len()], cores[2 % cores.len()]]);
}

#[test]
fn a_disk_that_keeps_nothing_is_found_out() {
    let null = Arc::new(Null::new("n0", 4 * MIB, 512, NullReads::Untouched).unwrap());
    let (outcome, counts) = verify(&job(), null);
    assert!(!outcome.is_clean() && counts.mismatches == counts.checked, "{counts:?}");
    assert!(counts.first.unwrap().contains("the read wrote nothing"));
    let zeroes = Arc::new(Null::new("n0", 4 * MIB, 512, NullReads::Zeroes).unwrap());
    let (_, counts) = verify(&Job { read_percent: 0, ..job() }, zeroes);
    assert!(counts.first.unwrap().contains("nothing that this run wrote"));
}

#[test]
fn lies_are_found_out_and_named() {
    let cases = [
        (Lie::FlipBit, 100, "bits have changed"),
        (Lie::FlipBit, 0, "bits have changed"),
        (Lie::LoseWrites, 0, "a write was lost"),
        (Lie::Misdirect, 100, "it holds the block of offset"),
    ];
    for (lie, read_percent, want) in cases {
        let (outcome, counts) =
            verify(&Job { read_percent, ..small_job() }, Arc::new(Liar { honest: malloc(), lie }));
        assert!(!outcome.is_clean() && counts.mismatches > 0, "{lie:?} {counts:?}");
        let first = counts.first.unwrap();
        assert!(first.contains(want) && first.contains("queue 0: block at 40960"), "{lie:?} {first}");
    }
}

#[test]
fn failed_requests_are_counted_and_the_first_is_told() {
    let liar = Arc::new(Liar { honest: malloc(), lie: Lie::Fail });
    let outcome = run_whole(&small_job(), &BdevTarget::new(liar, Hugepages::Off)).unwrap();
    let lane = &outcome.lanes[0];
    assert!(!outcome.is_clean() && lane.all().errors > 0 && lane.all().errors < lane.all().ios);
    let first = lane.first_fault.as_ref().unwrap();
    assert_eq!(first, "queue 0: read of 4096 bytes at 40960: no space left on the target");
}

#[test]
fn a_run_can_be_ended_early() {
    let job = Job { time: Duration::from_secs(3600), ..job() };
    let target = BdevTarget::new(malloc(), Hugepages::Off);
    let mut looks = 0;
    let outcome = run(&job, &target, &mut |progress| {
        looks += 1;
        if looks > 2 && progress.ios > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let outcome = outcome.unwrap();
    assert!(outcome.stopped_early && outcome.lanes[0].all().ios > 0);
}

#[test]
fn a_core_that_does_not_exist_ends_the_run_with_its_number() {
    let job = Job { cores: vec![cores(1)[0], 1000], queues: 2, ..job() };
    let error = run_whole(&job, &BdevTarget::new(malloc(), Hugepages::Off)).unwrap_err();
    assert!(error.to_string().contains("core 1000: cannot be pinned"), "{error}");
}

/// What a bad disk does to the block at 40960.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// Reads come with a bit changed.
    FlipBit,
    /// Every write but the first is acknowledged and forgotten.
    LoseWrites,
    /// Reads give the next block.
    Misdirect,
    /// Every I/O fails.
    Fail,
}

const WHERE: u64 = 40960;

/// Few blocks, so that the bad one's turn comes often even on a busy machine.
fn small_job() -> Job {
    Job { span_bytes: Some(128 << 10), ..job() }
}

/// A disk that lies about one block.
struct Liar {
    honest: Arc<dyn Bdev>,
    lie: Lie,
}

struct LyingChannel {
    honest: Box<dyn Channel>,
    lie: Lie,
    written: bool,
}

impl Bdev for Liar {
    fn info(&self) -> &Info {
        self.honest.info()
    }

    fn kind(&self) -> &'static str {
        "test"
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(LyingChannel { honest: self.honest.open(ring, depth)?, lie: self.lie, written: false }))
    }
}

impl Channel for LyingChannel {
    fn submit(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        if io.offset_bytes() != WHERE {
            return self.honest.submit(io, ring);
        }
        match (self.lie, io.op()) {
            (Lie::FlipBit, Op::Read) => {
                let result = self.honest.submit(io, ring);
                let at = io.segments()[0].as_ptr().wrapping_add(1000);
                // SAFETY: the segment of a read is writable until the result is reported, which is below.
                unsafe { at.write(at.read() ^ 4) };
                result
            }
            (Lie::LoseWrites, Op::Write) if self.written => Some(Ok(())),
            (Lie::LoseWrites, Op::Write) => {
                self.written = true;
                self.honest.submit(io, ring)
            }
            (Lie::Misdirect, Op::Read) => {
                // SAFETY: the segments are the caller's own, for the same time.
                let next = unsafe {
                    Io::new(Op::Read, WHERE + io.len_bytes(), io.len_bytes(), io.segments(), io.buf(), io.tag)
                };
                self.honest.submit(&next, ring)
            }
            (Lie::Fail, _) => Some(Err(IoError::NoSpace)),
            _ => self.honest.submit(io, ring),
        }
    }

    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>) {
        self.honest.poll(ring, done);
    }

    fn close(&mut self, ring: &mut Ring) {
        self.honest.close(ring);
    }
}

#[test]
fn intervals_join_and_add_up_to_the_outcome() {
    let job = Job { read_percent: 50, queues: 2, interval: Some(Duration::from_millis(60)), ..small_job() };
    let mut seen: Vec<Interval> = Vec::new();
    let outcome = run(&job, &BdevTarget::new(malloc(), Hugepages::Off), &mut |progress| {
        seen.extend_from_slice(progress.intervals);
        ControlFlow::Continue(())
    })
    .unwrap();
    for lane in &outcome.lanes {
        let of_lane: Vec<&Interval> = seen.iter().filter(|one| one.queue == lane.queue).collect();
        assert!(of_lane.len() > 1, "{seen:?}");
        let mut end_ns = 0;
        for interval in &of_lane {
            assert_eq!(interval.began_ns, end_ns);
            end_ns = interval.ended_ns;
        }
        assert_eq!(end_ns, lane.elapsed_ns);
        let sum = |count: fn(&Interval) -> u64| of_lane.iter().map(|interval| count(interval)).sum::<u64>();
        assert_eq!((sum(|one| one.reads.ios), sum(|one| one.writes.ios)), (lane.reads.ios, lane.writes.ios));
        assert!(lane.reads.ios > 0 && lane.reads.histogram().unwrap().len() == lane.reads.ios);
    }
}
