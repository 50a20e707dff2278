//! Clients that others wrote: libblkio's Rust crate and its virtio driver.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};
use common::{DISK_BYTES, Guest, Rig, alone, reactor};
use spinblk_vhost_user::RingOptions;
use virtio_driver::{VhostUser, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags};

const BLOCK: usize = 4096;
const BLOCKS: usize = 1024;

/// A small generator of numbers: the same ones in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn connect(rig: &Rig, queues: i32) -> (Blkio, Vec<Blkioq>) {
    let mut client = Blkio::new("virtio-blk-vhost-user").unwrap();
    client.set_str("path", rig.socket.to_str().unwrap()).unwrap();
    client.connect().unwrap();
    assert_eq!(client.get_u64("capacity").unwrap(), DISK_BYTES);
    client.set_i32("num-queues", queues).unwrap();
    client.set_i32("queue-size", 64).unwrap();
    let queues = client.start().unwrap().queues;
    (client, queues)
}

fn wait(queue: &mut Blkioq) -> i32 {
    let mut done = [std::mem::MaybeUninit::<Completion>::uninit()];
    let mut timeout = Duration::from_secs(20);
    let count = queue.do_io(&mut done, 1, Some(&mut timeout), None).unwrap();
    assert_eq!(count, 1);
    // SAFETY: one completion was written, as the count says.
    unsafe { done[0].assume_init_ref() }.ret
}

/// The client's memory as a slice, while no I/O is in flight.
fn bytes(region: MemoryRegion, at: usize, len: usize) -> &'static mut [u8] {
    // SAFETY: the region is mapped for as long as its `Blkio` lives, which outlives every use here; no request is in flight
    // when this is called.
    unsafe { std::slice::from_raw_parts_mut((region.addr as *mut u8).wrapping_add(at), len) }
}

#[test]
fn blkio_verifies_a_thousand_random_requests() {
    let _alone = alone();
    verify(Rig::new(2));
}

/// libblkio takes EVENT_IDX when it is offered.
#[test]
fn blkio_works_without_event_idx_and_indirect_descriptors() {
    let _alone = alone();
    verify(Rig::offering(RingOptions { event_idx: false, ..RingOptions::default() }));
    verify(Rig::offering(RingOptions { indirect: false, ..RingOptions::default() }));
}

fn verify(rig: Rig) {
    let (mut client, mut queues) = connect(&rig, 2);
    let region = client.alloc_mem_region(1 << 20).unwrap();
    client.map_mem_region(&region).unwrap();
    let (mut numbers, mut expected) = (Numbers(1), vec![Some(0u8); BLOCKS]);
    for round in 0..1000 {
        let count = 1 + numbers.below(16);
        let first = numbers.below(BLOCKS - count);
        let (start, len) = ((first * BLOCK) as u64, count * BLOCK);
        let queue = &mut queues[round % 2];
        let model = &mut expected[first..first + count];
        let buffer = (region.addr as *mut u8).wrapping_add(round % 3 * 512);
        match numbers.below(10) {
            0..4 => {
                bytes(region, 0, len + BLOCK).fill(round as u8);
                queue.write(start, buffer, len, 0, ReqFlags::empty());
                assert_eq!(wait(queue), 0);
                model.fill(Some(round as u8));
            }
            4..8 => {
                bytes(region, 0, len + BLOCK).fill(0xee);
                queue.read(start, buffer, len, 0, ReqFlags::empty());
                assert_eq!(wait(queue), 0);
                for (i, byte) in model.iter().enumerate().filter_map(|(i, b)| Some((i, (*b)?))) {
                    let got = bytes(region, round % 3 * 512 + i * BLOCK, BLOCK);
                    assert!(got.iter().all(|&b| b == byte), "round {round}, block {}", first + i);
                }
            }
            8 => {
                queue.flush(0, ReqFlags::empty());
                assert_eq!(wait(queue), 0);
                queue.discard(start, len as u64, 0, ReqFlags::empty());
                assert_eq!(wait(queue), 0);
                model.fill(None);
            }
            _ => {
                queue.write_zeroes(start, len as u64, 0, ReqFlags::empty());
                assert_eq!(wait(queue), 0);
                model.fill(Some(0));
            }
        }
    }
    client.unmap_mem_region(&region);
    client.free_mem_region(&region);
    drop((queues, client));
    let report = rig.stop();
    let requests: u64 = report.queues.iter().map(|queue| queue.board.snapshot().requests).sum();
    assert!(
        requests >= 1000 && report.queues.iter().all(|queue| queue.board.snapshot().requests > 300),
        "{requests}"
    );
    assert_eq!(report.clients, 1);
}

#[test]
fn blkio_keeps_many_requests_in_flight_while_memory_comes_and_goes() {
    let _alone = alone();
    let rig = Rig::with_reactors(2, &[reactor(0), reactor(1)]);
    let (mut client, mut queues) = connect(&rig, 2);
    let region = client.alloc_mem_region(64 * BLOCK).unwrap();
    client.map_mem_region(&region).unwrap();
    for round in 0..50u64 {
        for (q, queue) in queues.iter_mut().enumerate() {
            for i in 0..30 {
                let buffer = (region.addr as *mut u8).wrapping_add((q * 30 + i) * BLOCK);
                queue.write((round + i as u64) * BLOCK as u64, buffer, BLOCK, i, ReqFlags::empty());
            }
            let mut none = [];
            queue.do_io(&mut none, 0, None, None).unwrap();
        }
        // Under load: adding a region hands out a new map, removing one drains and restarts the queues.
        let more = client.alloc_mem_region(1 << 20).unwrap();
        client.map_mem_region(&more).unwrap();
        client.unmap_mem_region(&more);
        client.free_mem_region(&more);
        for queue in &mut queues {
            for _ in 0..30 {
                assert_eq!(wait(queue), 0);
            }
        }
    }
    drop((queues, client));
    let requests: Vec<u64> = rig.stop().queues.iter().map(|queue| queue.board.snapshot().requests).collect();
    assert_eq!(requests, [1500, 1500]);
}

/// One write, read back, through the driver crate itself, with the features given.
fn round_trip(rig: &Rig, features: VirtioFeatureFlags) {
    let wanted = features.bits() | (1 << 9) | (1 << 12) | (1 << 13) | (1 << 14);
    let mut transport = VhostUser::new(rig.socket.to_str().unwrap(), wanted).unwrap();
    let file = common::memory(1 << 20);
    // SAFETY: the file is ours, and only the test and the server touch it.
    let memory = unsafe { mmap(&file, 1 << 20) };
    let transport_ref: &mut VirtioBlkTransport = &mut transport;
    transport_ref
        .map_mem_region(memory.as_ptr().addr(), memory.len(), std::os::fd::AsRawFd::as_raw_fd(&file), 0)
        .unwrap();
    let mut queues = VirtioBlkQueue::<u32>::setup_queues(transport_ref, 1, 64).unwrap();
    let queue = &mut queues[0];
    let notifier = transport_ref.get_submission_notifier(0);
    let (out, back) = memory.split_at_mut(8192);
    let back = &mut back[..8192];
    let finish = |queue: &mut VirtioBlkQueue<'_, u32>, context| {
        if queue.avail_notif_needed() {
            notifier.notify().unwrap();
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let done = loop {
            if let Some(done) = queue.completions().next() {
                break done;
            }
            assert!(std::time::Instant::now() < deadline, "no completion");
            std::thread::yield_now();
        };
        assert_eq!((done.context, done.ret), (context, 0));
    };
    for round in 0..200u32 {
        out.fill(round as u8 + 1);
        queue.write(u64::from(round) * 512, out, round).unwrap();
        finish(queue, round);
        queue.flush(round).unwrap();
        finish(queue, round);
        queue.read(u64::from(round) * 512, back, round).unwrap();
        finish(queue, round);
        assert_eq!(out, back);
    }
    queue.write_zeroes(0, 8192, true, 1).unwrap();
    finish(queue, 1);
    queue.discard(8192, 8192, 2).unwrap();
    finish(queue, 2);
}

/// # Safety
/// Nobody else may change the file in ways that matter to the test.
unsafe fn mmap(file: &std::fs::File, bytes: usize) -> &'static mut [u8] {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let len = std::num::NonZeroUsize::new(bytes).unwrap();
    // SAFETY: a new mapping, never unmapped, of a file as long.
    unsafe {
        let base =
            mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file, 0)
                .unwrap();
        std::slice::from_raw_parts_mut(base.as_ptr().cast(), bytes)
    }
}

#[test]
fn the_virtio_driver_works_split_and_packed() {
    let _alone = alone();
    let rig = Rig::new(1);
    for ring in
        [VirtioFeatureFlags::VERSION_1, VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_PACKED]
    {
        round_trip(&rig, ring);
        round_trip(&rig, ring | VirtioFeatureFlags::RING_EVENT_IDX);
        round_trip(&rig, ring | VirtioFeatureFlags::RING_INDIRECT_DESC);
    }
    let report = rig.stop();
    assert_eq!(report.clients, 6);
    assert_eq!(report.queues[0].board.snapshot().requests, 6 * 602);
}

/// Sector, sectors, flags.
type Range = (u64, u32, u32);

/// What the specification and QEMU's device answer (5.2.6.2).
#[test]
fn discards_and_write_zeroes_are_judged_as_elsewhere() {
    const OK: u8 = 0;
    const IOERR: u8 = 1;
    const UNSUPP: u8 = 2;
    const DISCARD: u32 = 11;
    const WRITE_ZEROES: u32 = 13;
    let _alone = alone();
    let rig = Rig::new(1);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert!(guest.start(&client, 0));
    let sectors = DISK_BYTES / 512;
    let mut ask = |kind, ranges: &[Range]| {
        let range = |&(sector, count, flags): &Range| {
            [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
        };
        guest.ask(kind, 0, &ranges.iter().flat_map(range).collect::<Vec<u8>>());
        guest.submit();
        assert!(guest.wait());
        guest.answer()
    };
    for kind in [DISCARD, WRITE_ZEROES] {
        let cases: [(&[Range], u8); 9] = [
            (&[(8, 8, 0)], OK),
            (&[(sectors - 8, 8, 0)], OK),
            (&[(8, 8, 0), (16, 8, 0)], UNSUPP),
            (&[(0, (1 << 22) + 1, 0)], IOERR),
            (&[(0, u32::MAX, 0)], IOERR),
            (&[(sectors - 8, 16, 0)], IOERR),
            (&[(u64::MAX - 7, 8, 0)], IOERR),
            (&[(8, 8, 2)], UNSUPP),
            (&[], IOERR),
        ];
        for (ranges, expected) in cases {
            assert_eq!(ask(kind, ranges), expected, "{kind}: {ranges:?}");
        }
    }
    assert_eq!(ask(DISCARD, &[(8, 8, 1)]), UNSUPP, "a discard has no unmap flag");
    assert_eq!(ask(WRITE_ZEROES, &[(8, 8, 1)]), OK);
    rig.stop();
}
