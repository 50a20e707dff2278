//! What is particular to the disks without a file: long zeroing in steps, reads that touch nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ARENA_BYTES, Bench, Request, pattern};
use spinblk_bdev::{Bdev, IoError, Malloc, Null, NullReads, Op};
use spinblk_reactor::Hugepages;

const MIB: usize = 1 << 20;

#[test]
fn zeroing_many_mebibytes_zeroes_them_and_nothing_else() {
    let bdev = Malloc::new("m0", 8 * MIB as u64, 4096, Hugepages::Try).unwrap();
    let mut bench = Bench::new(&bdev, 4);
    for offset_bytes in (0..8 * MIB).step_by(ARENA_BYTES) {
        bench.write(offset_bytes as u64, &pattern(offset_bytes as u64, ARENA_BYTES)).unwrap();
    }
    // Two long ones under way together, with a short one and a flush that overtake them.
    let zeroes = Op::WriteZeroes { unmap: false };
    bench.submit(0, &Request::new(zeroes, MIB as u64, 2 * MIB + 4096));
    bench.submit(1, &Request::new(zeroes, 4 * MIB as u64, 3 * MIB));
    bench.submit(2, &Request::new(Op::Discard, 0, 4096));
    bench.submit(3, &Request::new(Op::Flush, 0, 0));
    bench.drain();
    let done = bench.wait(4);
    assert_eq!(done.iter().map(|c| c.tag).collect::<Vec<_>>(), [2, 3, 0, 1]);
    assert!(done.iter().all(|c| c.result.is_ok()));
    let zeroed = [0..4096, MIB..3 * MIB + 4096, 4 * MIB..7 * MIB];
    for offset_bytes in (0..8 * MIB).step_by(ARENA_BYTES) {
        let mut want = pattern(offset_bytes as u64, ARENA_BYTES);
        for (index, byte) in want.iter_mut().enumerate() {
            if zeroed.iter().any(|range| range.contains(&(offset_bytes + index))) {
                *byte = 0;
            }
        }
        assert!(bench.read(offset_bytes as u64, ARENA_BYTES).unwrap() == want, "at {offset_bytes}");
    }
}

#[test]
fn cores_share_a_malloc_disk() {
    let bdev = Malloc::new("m0", MIB as u64, 512, Hugepages::Off).unwrap();
    std::thread::scope(|scope| {
        for core in 0..4u64 {
            let bdev = &bdev;
            scope.spawn(move || {
                let mut bench = Bench::new(bdev, 1);
                for round in 0..50 {
                    let data = pattern(core * 1000 + round, 65536);
                    bench.write(core * 65536, &data).unwrap();
                    assert!(bench.read(core * 65536, 65536).unwrap() == data);
                }
            });
        }
    });
    let mut bench = Bench::new(&bdev, 1);
    for core in 0..4u64 {
        assert!(bench.read(core * 65536, 65536).unwrap() == pattern(core * 1000 + 49, 65536));
    }
}

#[test]
fn a_null_disk_leaves_memory_alone_or_zeroes_it() {
    for (reads, left) in [(NullReads::Untouched, 0xEE), (NullReads::Zeroes, 0)] {
        let bdev = Null::new("n0", MIB as u64, 512, reads).unwrap();
        let mut bench = Bench::new(&bdev, 1);
        bench.write(0, &[1; 4096]).unwrap();
        assert_eq!(bench.read(0, 4096).unwrap(), [left; 4096]);
        assert_eq!(bench.submitted(), 0);
        assert!(bdev.info().caps.flush && bdev.info().caps.discard && bdev.info().caps.write_zeroes);
    }
}

#[test]
fn too_much_memory_is_an_error_that_names_the_disk() {
    let error = Malloc::new("m0", 1 << 50, 512, Hugepages::Off).unwrap_err().to_string();
    assert!(error.contains("m0") && error.contains("ask for less"), "{error}");
    let error = Malloc::new("m0", 100, 512, Hugepages::Off).unwrap_err().to_string();
    assert!(error.contains("m0") && error.contains("less than one block"), "{error}");
}

#[test]
fn read_only_disks_refuse_every_change() {
    let null = Null::new("n0", MIB as u64, 512, NullReads::Zeroes).unwrap().with_read_only(true);
    let malloc = Malloc::new("m0", MIB as u64, 512, Hugepages::Try).unwrap().with_read_only(true);
    for bdev in [&null as &dyn Bdev, &malloc] {
        let mut bench = Bench::new(bdev, 4);
        for op in [Op::Write, Op::Discard, Op::WriteZeroes { unmap: true }] {
            bench.submit(0, &Request::new(op, 0, 4096));
            assert_eq!(bench.wait(1)[0].result, Err(IoError::ReadOnly), "{op:?}");
        }
        assert_eq!(bench.read(0, 4096).unwrap(), [0; 4096]);
    }
}
