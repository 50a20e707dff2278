//! Requests that take their time: out-of-order ends, pauses, broken rings, limits of a poll, and what a driver may do to
//! requests that are out.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;

use common::{Delayed, answer, held};
use spinblk_bdev::{IoError, Malloc, Null, NullReads};
use spinblk_reactor::{Hugepages, Poller, Progress};
use spinblk_virtio::blk::{MAX_DISCARD_SECTORS, MAX_TRANSFER_BYTES};
use spinblk_virtio::testing::{BASE, Buffer, Driver, Rig, header};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const OK: u8 = 0;
const IOERR: u8 = 1;

fn delayed() -> Rig {
    Rig::new(Driver::new(8, 4096, false, 0), &Delayed::new())
}

fn read(rig: &mut Rig) -> u16 {
    let chain = [Buffer::Out(header(0, 0)), Buffer::In(512), Buffer::In(1)];
    rig.driver.submit(&chain, true, 8).unwrap()
}

/// Puts a request header into the window of `head` and makes it `head`'s first descriptor; returns the window.
fn open_chain(rig: &Rig, head: u16, kind: u32, sector: u64) -> u64 {
    let window = rig.driver.window(head);
    for (i, byte) in header(kind, sector).into_iter().enumerate() {
        rig.driver.poke((window - BASE) as usize + i, byte);
    }
    rig.driver.write_descriptor(head, window, 16, NEXT, head - 1);
    window
}

fn peek(rig: &Rig, iova: u64) -> u8 {
    rig.driver.peek((iova - BASE) as usize)
}

#[test]
fn requests_end_in_the_order_of_the_storage() {
    let mut rig = delayed();
    let heads: Vec<u16> = (0..3).map(|_| read(&mut rig)).collect();
    rig.poll();
    let tags = held();
    assert_eq!(tags.len(), 3);
    for (nth, result, written) in [(2, Ok(()), 513), (0, Err(IoError::Errno(5)), 0), (1, Ok(()), 513)] {
        assert!(!rig.queue.quiesce());
        rig.queue.resume();
        answer(tags[nth], result);
        rig.poll();
        assert_eq!(rig.driver.completed(), [(heads[nth], written)], "a failed read has written nothing");
        assert_eq!(rig.driver.buffer(heads[nth], 2), [u8::from(result.is_err())]);
    }
    assert!(rig.queue.quiesce());
}

#[test]
fn a_head_offered_again_and_again_breaks_the_queue_at_its_size() {
    let mut rig = delayed();
    let head = read(&mut rig);
    for offered in 1..=8 {
        rig.poll();
        assert_eq!((held().len(), rig.log.broken.load(Ordering::Relaxed)), (offered, 0));
        rig.driver.make_available(head);
    }
    rig.poll();
    assert_eq!((held().len(), rig.log.broken.load(Ordering::Relaxed)), (8, 1), "a ninth in a ring of eight");
    for tag in held() {
        answer(tag, Ok(()));
    }
    rig.poll();
    rig.poll();
    assert_eq!(rig.driver.completed(), [(head, 513); 8], "what was in flight still ends");
}

#[test]
fn a_paused_queue_takes_nothing() {
    let mut rig = delayed();
    rig.queue.pause();
    let head = read(&mut rig);
    assert_eq!(rig.poll(), Progress::Idle);
    assert_eq!((held().len(), rig.queue.state().avail), (0, 0));
    rig.queue.resume();
    rig.poll();
    assert_eq!((held().len(), rig.queue.state().avail), (1, 1));
    answer(held()[0], Ok(()));
    assert_eq!(rig.drain(), [(head, 513)]);
}

#[test]
fn new_memory_under_io_in_flight_disturbs_nothing() {
    let mut rig = delayed();
    let head = read(&mut rig);
    rig.poll();
    let grown = rig.driver.memory_map().with(rig.driver.region_at(0x4000_0000));
    rig.queue.set_memory(std::sync::Arc::new(grown), &mut rig.core.ring);
    answer(held()[0], Ok(()));
    assert_eq!(rig.drain(), [(head, 513)]);
    assert_eq!(rig.driver.buffer(head, 2), [OK]);
}

#[test]
fn a_poll_takes_64_chains_or_a_mebibyte() {
    let bdev = Null::new("null", 1 << 30, 512, NullReads::Untouched).unwrap();
    let mut rig = Rig::new(Driver::new(256, 256 << 10, false, 0), &bdev);
    for _ in 0..100 {
        rig.driver.submit(&[Buffer::Out(header(4, 0)), Buffer::In(1)], true, 0).unwrap();
    }
    rig.poll();
    assert_eq!(rig.queue.state().avail, 64);
    rig.drain();
    for _ in 0..20 {
        let chain = [Buffer::Out(header(0, 0)), Buffer::In(128 << 10), Buffer::In(1)];
        rig.driver.submit(&chain, true, 0).unwrap();
    }
    rig.poll();
    assert_eq!(rig.queue.state().avail, 108, "eight reads of 128 KiB");
    assert_eq!(rig.drain().len(), 20);
}

#[test]
fn readable_buffers_after_writable_ones_are_refused() {
    let bdev = Malloc::new("order", 64 << 10, 512, Hugepages::Off).unwrap();
    let mut rig = Rig::new(Driver::new(8, 4096, false, 0), &bdev);
    for (kind, what) in [(0, "read"), (1, "write")] {
        let window = open_chain(&rig, 7, kind, 0);
        rig.driver.write_descriptor(6, window + 512, 512, NEXT | WRITE, 5);
        rig.driver.write_descriptor(5, window + 1024, 512, NEXT, 4);
        rig.driver.write_descriptor(4, window + 2048, 513, WRITE, 0);
        rig.driver.poke((window - BASE) as usize + 1024, 0x77);
        rig.driver.make_available(7);
        assert_eq!(rig.drain(), [(7, 0)], "{what}");
        assert_eq!(peek(&rig, window + 2560), IOERR, "{what}");
    }
    let head = read(&mut rig);
    rig.drain();
    assert_eq!(rig.driver.buffer(head, 1), [0; 512], "the disk was written");
}

#[test]
fn entries_beyond_an_indirect_table_are_not_read() {
    let mut rig = delayed();
    let window = rig.driver.window(7);
    let table = rig.driver.write_table_entry(7, 0, window, 16, NEXT, 2);
    // A good descriptor, but the third of a table of two.
    rig.driver.write_table_entry(7, 2, window + 1024, 513, WRITE, 0);
    rig.driver.write_descriptor(7, table, 32, INDIRECT, 0);
    rig.driver.make_available(7);
    rig.poll();
    assert_eq!((held().len(), rig.log.broken.load(Ordering::Relaxed)), (0, 1));
}

#[test]
fn the_longest_transfer_and_range_are_served_and_no_longer_ones() {
    let bdev = Null::new("big", 1 << 40, 512, NullReads::Untouched).unwrap();
    let mut rig = Rig::new(Driver::new(256, 1 << 20, false, 0), &bdev);
    // Descriptors may name the same memory again and again.
    let piece_bytes = 128 << 10;
    let pieces = MAX_TRANSFER_BYTES / piece_bytes;
    for (extra, status) in [(0, OK), (512, IOERR)] {
        let window = open_chain(&rig, 200, 0, 0);
        let mut index = 199;
        for piece in 0..pieces {
            let len = piece_bytes + if piece == 0 { extra } else { 0 };
            // Not side by side, so that they stay pieces.
            let at = window + 1024 + (piece % 2) * 8;
            rig.driver.write_descriptor(index, at, len as u32, NEXT | WRITE, index - 1);
            index -= 1;
        }
        rig.driver.write_descriptor(index, window + 512, 1, WRITE, 0);
        rig.driver.make_available(200);
        assert_eq!(rig.drain().len(), 1);
        assert_eq!(peek(&rig, window + 512), status, "{extra} bytes more");
    }
    for (sectors, status) in [(MAX_DISCARD_SECTORS, OK), (MAX_DISCARD_SECTORS + 1, IOERR)] {
        let mut discard = header(11, 0);
        discard.extend(0u64.to_le_bytes());
        discard.extend(sectors.to_le_bytes());
        discard.extend(0u32.to_le_bytes());
        let head = rig.driver.submit(&[Buffer::Out(discard), Buffer::In(1)], false, 0).unwrap();
        rig.drain();
        assert_eq!(rig.driver.buffer(head, 1), [status], "{sectors} sectors");
    }
}

#[test]
fn questions_for_one_chain_are_bounded() {
    let mut rig = delayed();
    let window = open_chain(&rig, 7, 0, 0);
    rig.driver.write_descriptor(5, window + 512, 1, WRITE, 0);
    let mut iova = 0x4000_0000;
    let mut aim = |rig: &mut Rig| {
        iova += 4096;
        rig.driver.write_descriptor(6, iova, 512, NEXT | WRITE, 5);
    };
    aim(&mut rig);
    rig.driver.make_available(7);
    rig.poll();
    let mut questions = 0;
    // The driver moves the buffer each time before the answer comes.
    for _ in 0..1000 {
        if !rig.driver.completed().is_empty() {
            break;
        }
        questions = rig.log.unmapped.load(Ordering::Relaxed);
        aim(&mut rig);
        let asked = rig.log.last_unmapped.load(Ordering::Relaxed);
        rig.queue.answer(asked, rig.driver.memory_map(), &mut rig.core.ring);
        rig.poll();
    }
    assert!((1..=200).contains(&questions), "{questions} questions for one chain");
    assert_eq!(peek(&rig, window + 512), IOERR);
}

#[test]
fn what_was_not_mapped_once_is_asked_for_again_by_the_next_request() {
    let mut rig = delayed();
    let window = open_chain(&rig, 7, 0, 0);
    rig.driver.write_descriptor(6, 0x4000_0000, 512, NEXT | WRITE, 5);
    rig.driver.write_descriptor(5, window + 512, 1, WRITE, 0);
    for request in 1..=2 {
        rig.driver.make_available(7);
        rig.poll();
        assert_eq!(rig.log.unmapped.load(Ordering::Relaxed), request, "request {request} asks");
        rig.queue.answer(0x4000_0000, rig.driver.memory_map(), &mut rig.core.ring);
        assert_eq!(rig.drain(), [(7, 0)], "request {request} fails");
        assert_eq!(peek(&rig, window + 512), IOERR);
    }
}
