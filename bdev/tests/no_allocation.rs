//! An open channel allocates nothing, whatever goes through it.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Bench, Request, disk_dir, file_in};
use spinblk_bdev::{Aio, AioOptions, Bdev, Malloc, Null, NullReads, Op};
use spinblk_reactor::Hugepages;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator unchanged; the counter is a plain cell without a
// destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: our caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_open_channel_allocates_nothing() {
    const DEPTH: usize = 32;
    let file = file_in(&disk_dir(), 16 << 20);
    let disks: [Box<dyn Bdev>; 3] = [
        Box::new(Null::new("null", 16 << 20, 512, NullReads::Zeroes).unwrap()),
        Box::new(Malloc::new("malloc", 16 << 20, 512, Hugepages::Off).unwrap()),
        Box::new(Aio::open("aio", file.path(), AioOptions::default()).unwrap()),
    ];
    let mut requests = Vec::new();
    for op in [Op::Write, Op::Read] {
        // As it should be, unaligned, and in pieces.
        for (skew, lens) in [(0, vec![131_072]), (5, vec![131_072]), (0, vec![32_768; 4])] {
            requests.push(Request { lens, skew, fixed: skew == 0, ..Request::new(op, 0, 131_072) });
        }
    }
    requests.extend([Op::Flush, Op::WriteZeroes { unmap: false }].map(|op| Request::new(op, 0, 2 << 20)));
    for disk in &disks {
        let mut bench = Bench::new(disk.as_ref(), DEPTH);
        let before = ALLOCATIONS.get();
        for request in &requests {
            for tag in 0..DEPTH as u32 {
                bench.submit(tag, request);
            }
            bench.drain();
            assert!(bench.done.iter().all(|completion| completion.result.is_ok()), "{:?}", bench.done);
            bench.forget_done();
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{}", disk.info().name);
    }
}
