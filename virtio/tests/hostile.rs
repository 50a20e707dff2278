//! A driver that breaks the rules: each request fails alone, or the queue alone stops, and the rest goes on.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use spinblk_bdev::Malloc;
use spinblk_reactor::Hugepages;
use spinblk_virtio::testing::{BASE, Buffer, Driver, Rig, header};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn rig() -> Rig {
    let bdev = Malloc::new("hostile", 64 << 10, 512, Hugepages::Off).unwrap();
    Rig::new(Driver::new(8, 4096, false, 0), &bdev)
}

/// A good read still works.
fn assert_alive(rig: &mut Rig) {
    let head =
        rig.driver.submit(&[Buffer::Out(header(0, 0)), Buffer::In(512), Buffer::In(1)], false, 0).unwrap();
    assert_eq!(rig.drain(), [(head, 513)]);
    assert_eq!(rig.driver.buffer(head, 2), [OK]);
}

fn status_of(buffers: &[Buffer]) -> u8 {
    let mut rig = rig();
    let head = rig.driver.submit(buffers, false, 8).unwrap();
    assert_eq!(rig.drain().len(), 1);
    let status = rig.driver.buffer(head, buffers.len() - 1);
    assert_alive(&mut rig);
    *status.last().unwrap()
}

#[test]
fn bad_requests_fail_alone() {
    let read = |sector, len| [Buffer::Out(header(0, sector)), Buffer::In(len), Buffer::In(1)];
    assert_eq!(status_of(&read(0, 512)), OK);
    assert_eq!(status_of(&read(127, 512)), OK);
    assert_eq!(status_of(&read(128, 512)), IOERR, "beyond the end");
    assert_eq!(status_of(&read(127, 1024)), IOERR, "across the end");
    assert_eq!(status_of(&read(u64::MAX, 512)), IOERR, "sector that overflows");
    assert_eq!(status_of(&read(1 << 55, 512)), IOERR, "sector whose byte offset overflows");
    assert_eq!(status_of(&read(0, 511)), IOERR, "part of a sector");
    assert_eq!(status_of(&[Buffer::Out(header(0, 0)), Buffer::In(1)]), IOERR, "no data");
    assert_eq!(
        status_of(&[Buffer::Out(header(0, 0)[..15].to_vec()), Buffer::In(513)]),
        IOERR,
        "short header"
    );
    assert_eq!(status_of(&[Buffer::In(1)]), IOERR, "no header");
    assert_eq!(status_of(&[Buffer::Out(header(99, 0)), Buffer::In(1)]), UNSUPP, "unknown type");
}

#[test]
fn discard_and_write_zeroes_follow_the_conformance_table() {
    let request = |kind: u32, ranges: &[(u64, u32, u32)], extra: usize| {
        let mut bytes = header(kind, 0);
        for (sector, sectors, flags) in ranges {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        bytes.truncate(bytes.len() - extra);
        status_of(&[Buffer::Out(bytes), Buffer::In(1)])
    };
    for kind in [11, 13] {
        assert_eq!(request(kind, &[(0, 8, 0)], 0), OK);
        assert_eq!(request(kind, &[(0, 8, 0), (8, 8, 0)], 0), UNSUPP, "two ranges");
        assert_eq!(request(kind, &[(0, u32::MAX, 0)], 0), IOERR, "too many sectors");
        assert_eq!(request(kind, &[(121, 8, 0)], 0), IOERR, "beyond the end");
        assert_eq!(request(kind, &[(u64::MAX, 8, 0)], 0), IOERR, "overflow");
        assert_eq!(request(kind, &[(0, 8, 0)], 1), IOERR, "part of a range");
        assert_eq!(request(kind, &[(0, 8, 2)], 0), UNSUPP, "reserved flag");
    }
    assert_eq!(request(11, &[(0, 8, 1)], 0), UNSUPP, "discard with unmap");
    assert_eq!(request(13, &[(0, 8, 1)], 0), OK, "write-zeroes with unmap");
}

#[test]
fn a_request_without_a_status_byte_does_nothing() {
    let mut rig = rig();
    let mut write = header(1, 0);
    write.extend([7; 512]);
    let head = rig.driver.submit(&[Buffer::Out(write)], false, 0).unwrap();
    assert_eq!(rig.drain(), [(head, 0)]);
    let head = rig.driver.submit(&[Buffer::Out(header(0, 0)), Buffer::In(513)], false, 0).unwrap();
    rig.drain();
    assert_eq!(rig.driver.buffer(head, 1), [0; 513], "nothing was written");
}

/// Chains that cannot be walked to their status byte stop the queue: returned unanswered, they could pass for success.
#[test]
fn chains_without_an_end_stop_the_queue() {
    type Break = fn(&Driver);
    let breaks: [(&str, Break); 6] = [
        ("a loop", |d| {
            d.write_descriptor(7, BASE + 8192, 16, NEXT, 6);
            d.write_descriptor(6, BASE + 8192, 16, NEXT, 7);
        }),
        ("next beyond the table", |d| d.write_descriptor(7, BASE + 8192, 16, NEXT, 8)),
        ("an empty indirect table", |d| d.write_descriptor(7, BASE + 8192, 0, INDIRECT, 0)),
        ("a crooked indirect table", |d| d.write_descriptor(7, BASE + 8192, 17, INDIRECT, 0)),
        ("indirect with next", |d| d.write_descriptor(7, BASE + 8192, 16, INDIRECT | NEXT, 0)),
        ("nested indirect", |d| {
            let table = d.write_table_entry(7, 0, BASE, 16, INDIRECT, 0);
            d.write_descriptor(7, table, 16, INDIRECT, 0);
        }),
    ];
    for (what, breaks) in breaks {
        let mut rig = rig();
        breaks(&rig.driver);
        rig.driver.make_available(7);
        assert_eq!(rig.drain(), [], "{what}");
        assert_eq!(rig.log.broken.load(Ordering::Relaxed), 1, "{what}");
        assert_eq!(rig.driver.kicks(), 0);
    }
}

/// Faulty buffers in a chain that has a status byte: the status says so.
#[test]
fn faulty_buffers_are_answered_with_an_error() {
    type Break = fn(&Driver, u64);
    let breaks: [(&str, Break); 4] = [
        ("data outside the map", |d, _| d.write_descriptor(6, 0x10, 512, NEXT | WRITE, 5)),
        ("data across the top of the address space", |d, _| {
            d.write_descriptor(6, u64::MAX - 100, 512, NEXT | WRITE, 5);
        }),
        ("readable after writable", |d, data| {
            d.write_descriptor(6, data, 16, NEXT | WRITE, 4);
            d.write_descriptor(4, data, 16, NEXT, 5);
        }),
        ("an empty buffer", |d, data| d.write_descriptor(6, data, 0, NEXT | WRITE, 5)),
    ];
    for (what, breaks) in breaks {
        let mut rig = rig();
        let window = rig.driver.window(7);
        for (i, byte) in header(0, 0).into_iter().enumerate() {
            rig.driver.poke((window - BASE) as usize + i, byte);
        }
        let status = window + 2048;
        rig.driver.poke((status - BASE) as usize, 0xee);
        rig.driver.write_descriptor(7, window, 16, NEXT, 6);
        breaks(&rig.driver, window + 1024);
        rig.driver.write_descriptor(5, status, 1, WRITE, 0);
        rig.driver.make_available(7);
        let mut got = rig.drain();
        if got.is_empty() {
            // Parked: the host has no more memory to offer. An answer to another queue does not count.
            assert_eq!(rig.log.unmapped.load(Ordering::Relaxed), 1, "{what}");
            rig.queue.set_memory(rig.driver.memory_map(), &mut rig.core.ring);
            assert!(rig.drain().is_empty(), "{what}: failed on somebody else's answer");
            let iova = rig.log.last_unmapped.load(Ordering::Relaxed);
            rig.queue.answer(iova, rig.driver.memory_map(), &mut rig.core.ring);
            got = rig.drain();
        }
        assert_eq!(got, [(7, 0)], "{what}");
        assert_eq!(rig.driver.peek((status - BASE) as usize), IOERR, "{what}");
        assert_alive(&mut rig);
    }
}

#[test]
fn a_parked_queue_goes_on_when_memory_arrives() {
    use std::sync::Arc;

    use spinblk_virtio::MemoryMap;
    let mut rig = rig();
    // The ring stays where it is; the data "moves" to an address that is not mapped yet.
    let far = 0x4000_0000;
    let map = rig.driver.memory_map();
    let moved = rig.driver.region_at(far);
    rig.driver.write_descriptor(7, far + rig.driver.window(7) - BASE, 16, NEXT, 6);
    rig.driver.write_descriptor(6, far + rig.driver.window(7) - BASE + 1024, 513, WRITE, 0);
    for (i, byte) in header(0, 0).into_iter().enumerate() {
        rig.driver.poke((rig.driver.window(7) - BASE) as usize + i, byte);
    }
    rig.driver.make_available(7);
    assert!(rig.drain().is_empty());
    assert_eq!(rig.log.last_unmapped.load(Ordering::Relaxed), far + rig.driver.window(7) - BASE);
    for _ in 0..10 {
        rig.poll();
    }
    assert_eq!(rig.log.unmapped.load(Ordering::Relaxed), 1, "asks once");
    rig.queue.set_memory(Arc::new(MemoryMap::clone(&map).with(moved)), &mut rig.core.ring);
    assert_eq!(rig.drain(), [(7, 513)]);
}

#[test]
fn a_ring_gone_mad_stops_its_queue_only() {
    let mut overrun = rig();
    overrun.driver.set_avail_index(9);
    overrun.poll();
    assert_eq!(overrun.log.broken.load(Ordering::Relaxed), 1, "index 9 in a ring of 8");

    let mut beyond = rig();
    beyond.driver.make_available(8);
    beyond.poll();
    assert_eq!(beyond.log.broken.load(Ordering::Relaxed), 1, "head 8 in a table of 8");
    for _ in 0..10 {
        beyond.poll();
    }
    assert_eq!(beyond.log.broken.load(Ordering::Relaxed), 1, "said once");
}

#[test]
fn a_pause_does_not_cost_a_parked_request_its_mapping() {
    let mut rig = rig();
    rig.driver.write_descriptor(7, 0x4000_0000, 16, 0, 0);
    rig.driver.make_available(7);
    rig.poll();
    assert_eq!(rig.log.unmapped.load(Ordering::Relaxed), 1);
    rig.queue.pause();
    rig.queue.resume();
    rig.poll();
    assert_eq!(rig.log.unmapped.load(Ordering::Relaxed), 2, "asks again instead of failing the request");
    assert!(rig.driver.completed().is_empty());
}
