//! The hot path allocates nothing: 100,000 requests through the queue and the null bdev under a counting allocator.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use allocation_counter::measure;
use spinblk_bdev::{Null, NullReads};
use spinblk_virtio::testing::{Buffer, Driver, Rig, header};
use spinblk_virtio::{InFlightLog, RingKind};

#[test]
fn a_hundred_thousand_requests_allocate_nothing() {
    serve(|_| ());
}

#[test]
fn nor_do_they_with_a_log_of_what_is_in_flight() {
    serve(|rig| {
        let mut words = vec![0u64; InFlightLog::region_len_bytes(RingKind::Split, 256) / 8];
        let (start, len_bytes) = (words.as_mut_ptr().cast(), words.len() * 8);
        // SAFETY: the vector lives as long as the log that keeps it, and nobody else reaches into it.
        let log = unsafe { InFlightLog::new(RingKind::Split, start, len_bytes, 256, Arc::new(words)) };
        rig.queue.attach_log(log.unwrap()).unwrap();
    });
}

fn serve(prepare: impl FnOnce(&mut Rig)) {
    const DEPTH: usize = 32;
    let bdev = Null::new("null", 1 << 30, 512, NullReads::Untouched).unwrap();
    let mut rig = Rig::new(Driver::new(256, 8192, true, 0), &bdev);
    prepare(&mut rig);
    // The driver's side allocates, so it puts one batch into the ring and then only moves the avail index on: the
    // device serves the same chains again and again.
    for i in 0..256u64 {
        let kind = [0, 1, 4, 13][i as usize % 4];
        let mut out = header(kind, i * 8);
        let chain = match kind {
            0 => vec![Buffer::Out(out), Buffer::In(4096), Buffer::In(1)],
            1 => vec![Buffer::Out(out), Buffer::Out(vec![1; 4096]), Buffer::In(1)],
            13 => {
                out.extend(i.to_le_bytes());
                out.extend([8, 0, 0, 0, 0, 0, 0, 0]);
                vec![Buffer::Out(out), Buffer::In(1)]
            }
            _ => vec![Buffer::Out(out), Buffer::In(1)],
        };
        rig.driver.submit(&chain, true, 0).unwrap();
    }
    rig.drain();
    let mut served = 0u64;
    let mut index = 256u16;
    let allocated = measure(|| {
        while served < 100_000 {
            index = index.wrapping_add(DEPTH as u16);
            rig.driver.set_avail_index(index);
            for _ in 0..4 {
                rig.poll();
            }
            served += DEPTH as u64;
        }
    });
    assert!(rig.queue.is_quiet());
    assert_eq!(rig.queue.state().avail, index);
    assert!(rig.board.snapshot().requests >= 100_000);
    assert_eq!(allocated.count_total, 0, "allocations in {served} requests");
}

/// The counter counts: without this the test above could not fail.
#[test]
fn the_counter_sees_allocations() {
    let allocated = measure(|| drop(std::hint::black_box(vec![1u8; 100])));
    assert_eq!(allocated.count_total, 1);
}
