//! Disks that grow while channels are open: the new part is there for all of them, the old one stays, and what cannot be
//! done is refused and changes nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, Disks, Loop, Request, disk_dir, file_in, memory_dir, pattern};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proptest::prelude::*;
use spinblk_bdev::{
    Aio, AioOptions, Bdev, Delay, Direct, Error, Faulty, IoError, Malloc, Moved, Null, NullReads, Op, Rule,
};
use spinblk_reactor::Hugepages;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

type Stack = Box<dyn Fn(&mut Disks<'_>) -> Arc<dyn Bdev>>;

fn aio(direct: Direct) -> Stack {
    Box::new(move |disks| disks.aio(&disk_dir(), MIB, direct, 512))
}

/// Every kind that can grow, each over a file.
fn stacks() -> Vec<Stack> {
    let never = || Rule { per_million: 0, ..Rule::default() };
    let crypto = |sector_bytes, below: fn() -> Stack| -> Stack {
        Box::new(move |disks| {
            let child = below()(disks);
            disks.crypto(sector_bytes, child)
        })
    };
    let delay: fn() -> Stack = || {
        Box::new(|disks| {
            let child = aio(Direct::Auto)(disks);
            Arc::new(Delay::new("slow", Rule::default(), Duration::from_micros(10), child).unwrap())
        })
    };
    let faulty: Stack = Box::new(move |disks| {
        let child = delay()(disks);
        Arc::new(Faulty::new("bad", never(), IoError::Errno(5), Moved::Nothing, child).unwrap())
    });
    let file: fn() -> Stack = || aio(Direct::Off);
    vec![aio(Direct::On), file(), crypto(512, file), crypto(4096, delay), faulty]
}

/// Not a byte changes, nobody's size does, and the reason is given.
fn refuses(bdev: &dyn Bdev, size_bytes: Option<u64>, why: &str) {
    let before_bytes = bdev.info().size_bytes();
    let error = bdev.resize(size_bytes).unwrap_err();
    assert!(matches!(error, Error::Resize { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("bdev ") && text.contains(why), "{text}");
    assert_eq!(bdev.info().size_bytes(), before_bytes, "{text}");
}

#[test]
fn the_new_part_is_there_for_channels_opened_before() {
    for stack in stacks() {
        let mut disks = Disks::new(&|_, below| below);
        let bdev = stack(&mut disks);
        let (mut one, mut other) = (Bench::new(&*bdev, 2), Bench::new(&*bdev, 2));
        let kind = bdev.kind();
        let last = pattern(1, BLOCK as usize);
        one.write(MIB - BLOCK, &last).unwrap();
        for (offset_bytes, len_bytes) in [(MIB, 4096), (MIB - BLOCK, 8192)] {
            assert_eq!(one.write(offset_bytes, &pattern(2, len_bytes)), Err(IoError::OutOfRange), "{kind}");
        }

        assert_eq!(bdev.resize(Some(3 * MIB)).unwrap(), 3 * MIB, "{kind}");
        assert_eq!((bdev.info().size_bytes(), disks.file_bytes(0)), (3 * MIB, 3 * MIB), "{kind}");
        one.write(3 * MIB - BLOCK, &pattern(3, BLOCK as usize)).unwrap();
        one.write(MIB - BLOCK + 512 * 8, &pattern(4, 8192)).unwrap();
        assert_eq!(one.run(&Request::new(Op::Flush, 0, 0)), Ok(()));
        assert_eq!(
            other.read(3 * MIB - BLOCK, BLOCK as usize).unwrap(),
            pattern(3, BLOCK as usize),
            "{kind}"
        );
        assert_eq!(other.read(MIB, 8192).unwrap(), pattern(4, 8192), "{kind}");
        assert_eq!(other.read(MIB - BLOCK, BLOCK as usize).unwrap(), last, "{kind}");
        assert_eq!(other.read(3 * MIB, BLOCK as usize), Err(IoError::OutOfRange), "{kind}");

        // What would make it smaller, or is no whole block; the same again is no change.
        refuses(&*bdev, Some(2 * MIB), "can only grow");
        refuses(&*bdev, Some(3 * MIB + 100), "whole blocks");
        assert_eq!(bdev.resize(Some(3 * MIB)).unwrap(), 3 * MIB);
        assert_eq!(disks.file_bytes(0), 3 * MIB, "{kind}");
    }
}

#[test]
fn a_file_that_grew_by_itself_is_seen_when_it_is_looked_at() {
    for stack in stacks() {
        let mut disks = Disks::new(&|_, below| below);
        let bdev = stack(&mut disks);
        let mut bench = Bench::new(&*bdev, 1);
        assert_eq!(bdev.resize(None).unwrap(), MIB);
        disks.set_file_bytes(0, 2 * MIB + 8192 + 100);
        assert_eq!(bdev.info().size_bytes(), MIB);
        assert_eq!(bench.write(MIB, &[1; 4096]), Err(IoError::OutOfRange));
        refuses(&*bdev, Some(2 * MIB), "2105444 bytes already");
        assert_eq!(bdev.resize(None).unwrap(), 2 * MIB + 8192);
        assert_eq!(bdev.resize(Some(2 * MIB + 8192)).unwrap(), 2 * MIB + 8192);
        assert_eq!(disks.file_bytes(0), 2 * MIB + 8192 + 100, "what is less than a block is left");
        bench.write(2 * MIB + 4096, &pattern(1, 4096)).unwrap();
        assert_eq!(bench.read(2 * MIB + 4096, 4096).unwrap(), pattern(1, 4096));
    }
}

#[test]
fn a_file_that_shrank_by_itself_changes_no_size() {
    for stack in stacks() {
        let mut disks = Disks::new(&|_, below| below);
        let bdev = stack(&mut disks);
        let mut bench = Bench::new(&*bdev, 1);
        bench.write(0, &pattern(1, 4096)).unwrap();
        disks.set_file_bytes(0, MIB / 2);
        refuses(&*bdev, None, "has 524288 bytes now, less than its 1048576");
        assert!(matches!(bench.read(MIB / 2, 4096), Err(IoError::Errno(_))));
        assert_eq!(bench.read(0, 4096).unwrap(), pattern(1, 4096));
        // To be made larger than it ever was is no loss.
        assert_eq!(bdev.resize(Some(2 * MIB)).unwrap(), 2 * MIB);
        bench.write(MIB / 2, &pattern(2, 4096)).unwrap();
        assert_eq!(bench.read(MIB / 2, 4096).unwrap(), pattern(2, 4096));
    }
}

#[test]
fn what_cannot_grow_says_so() {
    let malloc = || Malloc::new("m0", MIB, 512, Hugepages::Off).unwrap();
    let mut disks = Disks::new(&|_, below| below);
    let raid0 = {
        let children = vec![disks.null(MIB), disks.null(MIB)];
        disks.raid0(65536, children)
    };
    let over_malloc = Delay::new("slow", Rule::default(), Duration::ZERO, Arc::new(malloc())).unwrap();
    for size_bytes in [None, Some(2 * MIB)] {
        refuses(&malloc(), size_bytes, "malloc disk keeps the size");
        refuses(&*raid0, size_bytes, "striped");
        refuses(&over_malloc, size_bytes, "m0: cannot be resized");
    }
    let mut bench = Bench::new(&over_malloc, 1);
    assert_eq!(bench.write(MIB, &[1; 512]), Err(IoError::OutOfRange));
}

#[test]
fn a_file_that_may_not_be_made_longer_is_left_alone() {
    let file = file_in(&disk_dir(), MIB);
    let open = |options| Aio::open("d0", file.path(), options).unwrap();
    let bdev = open(AioOptions { read_only: true, ..AioOptions::default() });
    refuses(&bdev, Some(2 * MIB), "read-only");
    assert_eq!(file.as_file().metadata().unwrap().len(), MIB);
    // It may be looked at.
    file.as_file().set_len(2 * MIB).unwrap();
    assert_eq!(bdev.resize(None).unwrap(), 2 * MIB);
    assert_eq!(Bench::new(&bdev, 1).read(2 * MIB - 4096, 4096).unwrap(), [0; 4096]);
    drop(bdev);
    // More than its file system has, and more than any file may have.
    let bdev = open(AioOptions::default());
    refuses(&bdev, Some(1 << 63), "more than any file can have");
    let error = bdev.resize(Some((1 << 63) - 4096)).unwrap_err();
    assert!(matches!(error, Error::File { action: "make longer", .. }), "{error:?}");
    assert_eq!((bdev.info().size_bytes(), file.as_file().metadata().unwrap().len()), (2 * MIB, 2 * MIB));
    assert_eq!(bdev.resize(Some(4 * MIB)).unwrap(), 4 * MIB);
}

#[test]
fn several_at_once_never_make_a_file_shorter() {
    let file = file_in(&memory_dir(), MIB);
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let bdev = &bdev;
            scope.spawn(move || {
                let mut before_bytes = 0;
                for round in 0..200 {
                    // Most come too late, and are refused.
                    let _ = bdev.resize(Some(MIB + (round * 4 + thread) * BLOCK));
                    let size_bytes = bdev.resize(None).unwrap();
                    assert!(size_bytes >= before_bytes, "{size_bytes} after {before_bytes}");
                    before_bytes = size_bytes;
                }
            });
        }
    });
    let most_bytes = MIB + 799 * BLOCK;
    assert_eq!(
        (bdev.info().size_bytes(), file.as_file().metadata().unwrap().len()),
        (most_bytes, most_bytes)
    );
}

/// The limit counts for a whole process; it is this test program's, and no other test of it writes that far.
#[test]
fn a_limit_on_file_sizes_ends_no_process() {
    let (_, hard_bytes) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 40, hard_bytes).unwrap();
    let file = file_in(&memory_dir(), MIB);
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    let text = bdev.resize(Some(1 << 41)).unwrap_err().to_string();
    assert!(text.contains("make longer") && text.contains("File too large"), "{text}");
    assert_eq!(bdev.info().size_bytes(), MIB);
}

#[test]
fn a_block_device_is_looked_at_and_not_changed() {
    let file = file_in(&disk_dir(), MIB);
    let Some(device) = Loop::attach(file.path()) else { return };
    let bdev = Aio::open("d0", device.path(), AioOptions::default()).unwrap();
    let mut bench = Bench::new(&bdev, 1);
    refuses(&bdev, Some(2 * MIB), "block device");
    file.as_file().set_len(2 * MIB).unwrap();
    assert_eq!(bdev.resize(None).unwrap(), MIB, "the device does not know yet");
    device.look_again();
    assert_eq!(bdev.resize(None).unwrap(), 2 * MIB);
    bench.write(2 * MIB - 4096, &pattern(1, 4096)).unwrap();
    assert_eq!(bench.read(2 * MIB - 4096, 4096).unwrap(), pattern(1, 4096));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked for, in whatever order: an I/O is taken exactly when it ends within the size that the last answer
    /// gave.
    #[test]
    fn io_is_taken_up_to_the_size_that_was_answered(
        steps in prop::collection::vec((prop::option::of(0u64..4096), 0u64..4096, 1u64..64), 1..40),
    ) {
        let bdev = Null::new("n0", 512 * 512, 512, NullReads::Untouched).unwrap();
        let (mut before, mut size_bytes) = (Bench::new(&bdev, 1), 512 * 512);
        for (blocks, at, count) in steps {
            match bdev.resize(blocks.map(|blocks| blocks * 512)) {
                Ok(now_bytes) => {
                    prop_assert_eq!(now_bytes, blocks.map_or(size_bytes, |blocks| blocks * 512));
                    prop_assert!(now_bytes >= size_bytes);
                    size_bytes = now_bytes;
                }
                Err(_) => prop_assert!(blocks.is_some_and(|blocks| blocks * 512 < size_bytes)),
            }
            let fits = (at + count) * 512 <= size_bytes;
            let request = Request::new(Op::Write, at * 512, (count * 512) as usize);
            let want = if fits { Ok(()) } else { Err(IoError::OutOfRange) };
            prop_assert_eq!(before.run(&request), want);
            prop_assert_eq!(Bench::new(&bdev, 1).run(&request), want);
        }
    }
}

#[test]
fn the_size_to_create_is_not_the_size_any_more() {
    let dir = tempfile::tempdir_in(disk_dir()).unwrap();
    let path: &Path = &dir.path().join("disk.img");
    let options = AioOptions { create_bytes: Some(MIB), ..AioOptions::default() };
    let bdev = Aio::open("d0", path, options).unwrap();
    assert_eq!(bdev.resize(Some(2 * MIB)).unwrap(), 2 * MIB);
    drop(bdev);
    assert!(Aio::open("d0", path, options).unwrap_err().to_string().contains("create_size"));
    let bdev = Aio::open("d0", path, AioOptions { create_bytes: Some(2 * MIB), ..options }).unwrap();
    assert_eq!(bdev.info().size_bytes(), 2 * MIB);
}
