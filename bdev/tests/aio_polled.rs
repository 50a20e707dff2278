//! Reads and writes that complete by polling the device, or find out that they cannot.
//!
//! Few machines have a device with poll queues. `SPINBLK_TEST_POLLED_DEVICE` names one that may be overwritten; without it,
//! a file takes its place, which the kernel mostly refuses to poll: the I/O is done all the same.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{disk_dir, file_in, pattern};
use spinblk_bdev::{Aio, AioOptions, Bdev, Channel, Direct, Io, IoResult, Op, Poll, Segment};
use spinblk_reactor::{BufId, Hugepages, Memory, Ring};

const DEPTH: usize = 64;
const IO_BYTES: usize = 4096;

/// One channel and memory for each of its tags, registered with its ring.
struct Rig {
    ring: Ring,
    channel: Box<dyn Channel>,
    memory: Memory,
    segments: Vec<Segment>,
    buf: Option<BufId>,
}

impl Rig {
    fn new(bdev: &dyn Bdev) -> Self {
        let mut ring = Ring::new(16).unwrap();
        let memory = Memory::new(DEPTH * IO_BYTES, Hugepages::Off, "test").unwrap();
        // Before the channel makes the polled ring, which must know it too.
        // SAFETY: the memory is mapped until after the release in `close`.
        let buf = unsafe { ring.acquire_buffer(memory.as_ptr(), memory.len_bytes()) };
        let channel = bdev.open(&mut ring, DEPTH).unwrap();
        // SAFETY: within the memory just made.
        let piece = |tag: usize| unsafe { memory.as_ptr().add(tag * IO_BYTES) };
        let segments = (0..DEPTH).map(|tag| Segment::new(piece(tag), IO_BYTES)).collect();
        Self { ring, channel, memory, segments, buf }
    }

    /// One I/O for each tag, all at once, every other one in registered memory; each at its own place on the disk.
    fn run(&mut self, op: Op) {
        for tag in 0..DEPTH {
            let segment = std::slice::from_ref(&self.segments[tag]);
            let (len, segments) = if op == Op::Flush { (0, &[][..]) } else { (IO_BYTES as u64, segment) };
            let buf = self.buf.filter(|_| tag % 2 == 0);
            // SAFETY: segments and memory stay until `close`, which comes after every completion.
            let io = unsafe { Io::new(op, (tag * IO_BYTES) as u64, len, segments, buf, tag as u32) };
            assert_eq!(self.channel.submit(&io, &mut self.ring), None);
        }
        let mut done = Vec::with_capacity(DEPTH);
        while done.len() < DEPTH {
            self.ring.enter().unwrap();
            self.channel.poll(&mut self.ring, &mut done);
        }
        let failed: Vec<IoResult> = done.iter().map(|c| c.result).filter(Result::is_err).collect();
        assert_eq!(failed, [], "{op:?}");
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the memory is ours alone while nothing is in flight.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.memory.len_bytes()) }
    }

    /// Writes, flushes and reads back everything once.
    fn round_trip(&mut self, seed: u64) {
        let data = pattern(seed, DEPTH * IO_BYTES);
        self.bytes().copy_from_slice(&data);
        self.run(Op::Write);
        self.run(Op::Flush);
        self.bytes().fill(0);
        self.run(Op::Read);
        assert!(self.bytes() == data);
    }

    fn close(mut self) {
        self.channel.close(&mut self.ring);
        assert_eq!(self.ring.in_flight(), 0);
        self.buf.into_iter().for_each(|buf| self.ring.release_buffer(buf));
    }
}

fn open(path: &Path, poll: Poll) -> Aio {
    Aio::open("d0", path, AioOptions { poll, direct: Direct::On, ..AioOptions::default() }).unwrap()
}

#[test]
fn polling_where_it_can_be_had_and_interrupts_where_not() {
    let file = file_in(&disk_dir(), (DEPTH * IO_BYTES) as u64);
    let bdev = open(file.path(), Poll::On);
    let mut rig = Rig::new(&bdev);
    rig.round_trip(1);
    let polled = rig.channel.counters().polled_ios;
    println!("{}: {polled} of {} I/Os polled", file.path().display(), 2 * DEPTH);
    let refused = polled < 2 * DEPTH as u64;
    // Refused once is refused for good: each I/O is one operation now, on this channel and on a new one.
    for (mut rig, polled) in [(rig, polled), (Rig::new(&bdev), 0)] {
        let before = rig.ring.counters().submitted;
        rig.round_trip(2);
        assert_eq!(rig.ring.counters().submitted - before, 3 * DEPTH as u64);
        let more = if refused { 0 } else { 2 * DEPTH as u64 };
        assert_eq!(rig.channel.counters().polled_ios - polled, more);
        assert_eq!(rig.channel.counters().failed, 0);
        rig.close();
    }
}

#[test]
fn a_file_is_polled_only_when_asked_to() {
    let file = file_in(&disk_dir(), (DEPTH * IO_BYTES) as u64);
    for poll in [Poll::Auto, Poll::Off] {
        let mut rig = Rig::new(&open(file.path(), poll));
        rig.round_trip(3);
        assert_eq!(rig.channel.counters().polled_ios, 0);
        assert_eq!(rig.ring.counters().submitted, 3 * DEPTH as u64);
        rig.close();
    }
}

#[test]
fn a_device_with_poll_queues_is_polled() {
    let Some(device) = std::env::var_os("SPINBLK_TEST_POLLED_DEVICE") else {
        eprintln!("skipped: SPINBLK_TEST_POLLED_DEVICE names no device");
        return;
    };
    for (poll, share) in [(Poll::Auto, 1), (Poll::Off, 0)] {
        let mut rig = Rig::new(&open(Path::new(&device), poll));
        rig.round_trip(4);
        let counters = rig.channel.counters();
        assert_eq!(counters.polled_ios, share * 2 * DEPTH as u64, "{poll:?}: {counters:?}");
        assert_eq!((counters.failed, counters.retries), (0, 0), "{poll:?}");
        assert_eq!(rig.ring.counters().submitted, 3 * DEPTH as u64, "{poll:?}");
        rig.close();
    }
}
