//! Once it is under way, the generator allocates nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::job;
use spinblk_bdev::Malloc;
use spinblk_load::{BdevTarget, Job, Phase, run};
use spinblk_reactor::Hugepages;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
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
fn a_run_under_way_allocates_nothing() {
    let bdev = Arc::new(Malloc::new("m0", 4 << 20, 512, Hugepages::Off).unwrap());
    let job = Job { read_percent: 50, queues: 2, verify: true, time: Duration::from_millis(600), ..job() };
    let job = Job { interval: Some(Duration::from_millis(100)), ..job };
    let mut seen = Vec::with_capacity(1000);
    run(&job, &BdevTarget::new(bdev, Hugepages::Off), &mut |progress| {
        if progress.phase == Phase::Measure {
            seen.push(ALLOCATIONS.load(Ordering::Relaxed));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen.len() >= 3, "{seen:?}");
    assert_eq!(seen.first(), seen.last());
}
