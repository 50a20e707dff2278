//! What a channel promises beyond right data: any depth, slow children, other channels, and being dropped too early.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use spinblk_bdev::{Bdev, Delay, Error, IoError, Op, Rule};

use crate::common::{ARENA_BYTES, Bench, Request, memory_dir, pattern};
use crate::run::{Faults, Run};
use crate::targets::{Make, Target};

const FULL_DEPTH: usize = 64;

/// A target with two delays in each joint, so that I/Os come late, by different times, and out of order.
fn with_slow_children(make: Make, test: &dyn Fn(&Target)) {
    test(&Target::new(make, &|number, below| {
        let delay = |per_million, micros, below| -> Arc<dyn Bdev> {
            let rule = Rule { per_million, seed: number as u64, ..Rule::default() };
            let name = format!("delay{number}");
            Arc::new(Delay::new(&name, rule, Duration::from_micros(micros), below).unwrap())
        };
        delay(400_000, 40, delay(300_000, 15, below))
    }));
}

/// One I/O at a time, and as many as there are tags, over children that are slow.
pub(crate) fn slow_children(make: Make) {
    with_slow_children(make, &|target| {
        for (depth, count) in [(1, 500), (2, 1000), (FULL_DEPTH, 5000)] {
            Run::new(target, depth, Faults::Never).at_random(count);
        }
    });
}

/// A channel dropped with I/O in flight harms neither the process nor the next channel.
pub(crate) fn dropped_under_load(make: Make) {
    with_slow_children(make, &|target| {
        let size_bytes = target.bdev.info().size_bytes();
        let mut bench = Bench::new(target.bdev.as_ref(), FULL_DEPTH);
        for round in 0..8 {
            for tag in 0..FULL_DEPTH as u32 {
                let op = if tag % 2 == 0 { Op::Write } else { Op::Read };
                let offset_bytes = u64::from(tag) * (size_bytes / FULL_DEPTH as u64) / 4096 * 4096;
                bench
                    .submit(tag, &Request { skew: tag as usize % 3, ..Request::new(op, offset_bytes, 8192) });
            }
            // Nothing has reached the kernel, some, or some is done.
            (0..round).for_each(|_| bench.turn());
            bench.drop_and_reopen(target.bdev.as_ref());
            for offset_bytes in (0..size_bytes).step_by(ARENA_BYTES) {
                let len_bytes = (size_bytes - offset_bytes).min(ARENA_BYTES as u64) as usize;
                let data = pattern(offset_bytes + round, len_bytes);
                assert_eq!(bench.write(offset_bytes, &data), Ok(()));
                if target.keeps_data {
                    assert!(bench.read(offset_bytes, len_bytes).unwrap() == data, "at {offset_bytes}");
                }
            }
        }
    });
}

/// Two cores, each on a ring of its own: each sees what the other has had reported, all the time.
pub(crate) fn two_cores_see_each_other(make: Make) {
    const ROUNDS: u64 = 40;
    let target = Target::plain(make);
    let half_bytes = target.bdev.info().size_bytes() / 2 / 4096 * 4096;
    let core = |own: u64, here: mpsc::Receiver<()>, there: mpsc::Sender<()>| {
        let mut bench = Bench::new(target.bdev.as_ref(), 1);
        let data = |core: u64, round: u64| pattern(2 * round + core, 24 << 10);
        // Odd places and lengths; across chunks, too.
        let place = |core: u64, round: u64| core * half_bytes + round * 36_864 % (half_bytes - 32_768);
        for round in 0..ROUNDS {
            assert_eq!(bench.write(place(own, round), &data(own, round)), Ok(()));
            there.send(()).unwrap();
            here.recv().unwrap();
            let others = bench.read(place(1 - own, round), 24 << 10).unwrap();
            assert!(!target.keeps_data || others == data(1 - own, round), "core {own}, round {round}");
            // Nobody writes on before both have looked.
            there.send(()).unwrap();
            here.recv().unwrap();
        }
    };
    let ((to_first, first), (to_second, second)) = (mpsc::channel(), mpsc::channel());
    std::thread::scope(|scope| {
        scope.spawn(|| core(0, first, to_second));
        core(1, second, to_first);
    });
}

/// It grows under a channel that is at work, which then serves all of it; or it refuses, and is what it was.
pub(crate) fn grows_or_refuses(make: Make) {
    with_slow_children(make, &|target| {
        let (bdev, more_bytes) = (target.bdev.as_ref(), 8192);
        let before_bytes = bdev.info().size_bytes();
        let mut bench = Bench::new(bdev, 2);
        let beyond = Request::new(Op::Write, before_bytes, more_bytes);
        assert_eq!(bench.run(&beyond), Err(IoError::OutOfRange));
        bench.submit(1, &Request::new(Op::Write, before_bytes - more_bytes as u64, more_bytes));
        let size_bytes = match bdev.resize(Some(before_bytes + more_bytes as u64)) {
            Ok(size_bytes) => size_bytes,
            Err(Error::Resize { .. }) => before_bytes,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(bdev.info().size_bytes(), size_bytes);
        assert_eq!(bench.wait(1)[0].result, Ok(()));
        let grew = size_bytes > before_bytes;
        assert_eq!(bench.run(&beyond), if grew { Ok(()) } else { Err(IoError::OutOfRange) });
        assert_eq!(grew, bdev.resize(None).is_ok(), "what can grow can look");
        drop(bench);
        Run::new(target, 8, Faults::Never).at_random(2000);
    });
}

/// What it says of itself is possible, and not more than its children can do.
pub(crate) fn says_what_it_is(make: Make) {
    let target = Target::plain(make);
    let (info, children) = (target.bdev.info(), target.bdev.children());
    assert!(!info.name.is_empty() && info.blocks() > 0);
    assert!(info.block_size.is_power_of_two() && (512..=4096).contains(&info.block_size), "{info:?}");
    assert!(info.physical_block_size.is_multiple_of(info.block_size), "{info:?}");
    if !children.is_empty() {
        let infos: Vec<_> = children.iter().map(|child| child.info()).collect();
        assert!(info.size_bytes() <= infos.iter().map(|child| child.size_bytes()).sum());
        assert!(infos.iter().all(|child| info.block_size >= child.block_size));
        assert!(!info.caps.discard || infos.iter().all(|child| child.caps.discard));
        assert!(!info.caps.write_zeroes || infos.iter().all(|child| child.caps.write_zeroes));
        // A cache below that cannot be flushed from above would lose writes.
        assert!(info.caps.flush || infos.iter().all(|child| !child.caps.flush));
    }
}

/// Tags are the caller's duty; a disk on a file answers wrong ones all the same.
#[test]
fn aio_refuses_tags_in_flight_or_beyond_its_depth() {
    let target = Target::plain(|disks| disks.aio(&memory_dir(), 1 << 20, spinblk_bdev::Direct::Off, 512));
    let mut bench = Bench::new(target.bdev.as_ref(), 2);
    bench.write(4096, &pattern(1, 8192)).unwrap();
    bench.submit(1, &Request::new(Op::Read, 4096, 8192));
    for tag in [1, 2, u32::MAX] {
        let refused = Some(Err(IoError::Errno(libc::EINVAL)));
        assert_eq!(bench.submit_against_the_contract(tag, 512), refused, "tag {tag}");
    }
    assert_eq!(bench.wait(1)[0].result, Ok(()));
    assert_eq!(bench.read_back(1, 0, 8192), pattern(1, 8192));
}
