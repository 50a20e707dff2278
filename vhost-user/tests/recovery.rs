//! A server dies with requests in flight, and the next one does them: what the dead one leaves is its client's memory and
//! log as they were at that moment, so a copy of both is handed to another server.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Client, GUEST, MEMORY_BYTES, Rig, USER, alone, code, eventually, in_flight, reactor};
use common::{memory, region, words32, words64};
use spinblk_bdev::{Bdev, Channel, Completion, Info, Io, IoResult};
use spinblk_reactor::Ring;

/// Chains of three descriptors, and a ring with just enough room.
const CHAINS: u16 = 8;
const SIZE: u16 = 32;
/// What the first server finishes, out of order.
const FINISHED: [u16; 2] = [4, 1];
const AVAIL: u16 = 1 << 7;

/// A disk that finishes what is asked of it for the sectors in `FINISHED`, and the rest once it may.
struct Slow {
    info: Info,
    released: Arc<AtomicBool>,
}

struct SlowChannel {
    waiting: Vec<(u64, u32)>,
    released: Arc<AtomicBool>,
}

impl Bdev for Slow {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "test"
    }

    fn open(&self, _: &mut Ring, _: usize) -> Result<Box<dyn Channel>, spinblk_bdev::Error> {
        Ok(Box::new(SlowChannel { waiting: Vec::new(), released: Arc::clone(&self.released) }))
    }
}

impl Channel for SlowChannel {
    fn submit(&mut self, io: &Io, _: &mut Ring) -> Option<IoResult> {
        self.waiting.push((io.offset_bytes() / 512, io.tag));
        None
    }

    fn poll(&mut self, _: &mut Ring, done: &mut Vec<Completion>) {
        let released = self.released.load(Ordering::Relaxed);
        self.waiting.sort_unstable_by_key(|(sector, _)| u64::MAX - sector);
        let first = FINISHED.map(u64::from);
        // The last of them first.
        self.waiting.retain(|&(sector, tag)| {
            let finished = released || first.contains(&sector);
            if finished {
                done.push(Completion { tag, result: Ok(()) });
            }
            !finished
        });
    }

    fn close(&mut self, _: &mut Ring) {}
}

/// A guest with many requests, one for each sector from 0 on.
///
/// ```text
///   0x0 descriptors   0x1000 avail, events   0x2000 used, events   0x3000 headers   0x4000 data   0x6000 status bytes
/// ```
struct Many {
    file: File,
    packed: bool,
}

impl Many {
    fn new(packed: bool) -> Self {
        let many = Self { file: memory(MEMORY_BYTES), packed };
        for chain in 0..u64::from(CHAINS) {
            many.write(0x3000 + 16 * chain, &words64(&[0, chain]));
            many.write(0x6000 + chain, &[0xff]);
            let parts =
                [(0x3000 + 16 * chain, 16, 1), (0x4000 + 512 * chain, 512, 3), (0x6000 + chain, 1, 2u16)];
            for (nth, (at, len, flags)) in parts.into_iter().enumerate() {
                let index = 3 * chain + nth as u64;
                let halves = if packed { [chain as u16, flags] } else { [flags, index as u16 + 1] };
                let halves = halves.map(u16::to_le_bytes).concat();
                let desc = [&(GUEST + at).to_le_bytes()[..], &u32::to_le_bytes(len), &halves].concat();
                many.write(16 * index, &desc);
            }
        }
        many
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn word(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }

    /// Offers the chains below `count`, the first of them last.
    fn offer(&self, chains: std::ops::Range<u16>) {
        for chain in chains.clone().rev() {
            if self.packed {
                for index in (3 * chain..3 * chain + 3).rev() {
                    let flags = 16 * u64::from(index) + 14;
                    self.write(flags, &(self.word(flags) | AVAIL).to_le_bytes());
                }
            } else {
                self.write(0x1000 + 4 + 2 * u64::from(chain), &(3 * chain).to_le_bytes());
            }
        }
        self.write(0x1002, &if self.packed { 0u16 } else { chains.end }.to_le_bytes());
    }

    /// The chains that were returned, in order.
    fn returned(&self) -> Vec<u16> {
        if !self.packed {
            let ids = (0..u64::from(self.word(0x2002))).map(|nth| self.word(0x2004 + 8 * nth));
            return ids.map(|head| head / 3).collect();
        }
        let used = |place: &u64| self.word(16 * place + 14) >> 15 == 1;
        let places = (0..u64::from(CHAINS)).map(|nth| 3 * nth).take_while(used);
        places.map(|place| self.word(16 * place + 12)).collect()
    }

    fn status(&self, chain: u16) -> u8 {
        self.word(0x6000 + u64::from(chain)) as u8
    }

    /// Connects, with the log that `log` gives.
    fn start(&self, rig: &Rig, base: u32, log: impl FnOnce(&Client) -> (Vec<u8>, File)) -> (Client, File) {
        let client = rig.client();
        client.hello();
        let features = 1u64 << 32 | 1 << 30 | if self.packed { 1 << 34 } else { 0 };
        assert_eq!(client.ask_u64(code::SET_FEATURES, &features.to_le_bytes(), &[]), Some(0));
        let (body, log) = log(&client);
        assert_eq!(client.ask_u64(code::SET_INFLIGHT_FD, &body, &[log.as_raw_fd()]), Some(0));
        let add = region(GUEST, MEMORY_BYTES, USER, 0);
        assert_eq!(client.ask_u64(code::ADD_MEM_REG, &add, &[self.file.as_raw_fd()]), Some(0));
        let addresses = [words32(&[0, 0]), words64(&[USER, USER + 0x2000, USER + 0x1000, 0])].concat();
        let kick = nix::sys::eventfd::EventFd::new().unwrap();
        for (code, body, fds) in [
            (code::SET_VRING_NUM, words32(&[0, SIZE.into()]), &[][..]),
            (code::SET_VRING_BASE, words32(&[0, base]), &[]),
            (code::SET_VRING_ADDR, addresses, &[]),
            (code::SET_VRING_KICK, words64(&[0]), &[kick.as_raw_fd()]),
            (code::SET_VRING_ENABLE, words32(&[0, 1]), &[]),
        ] {
            assert_eq!(client.ask_u64(code, &body, fds), Some(0), "message {code}");
        }
        (client, log)
    }
}

fn copy(file: &File) -> File {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let copy = memory(bytes.len() as u64);
    copy.write_all_at(&bytes, 0).unwrap();
    copy
}

fn die_and_go_on(packed: bool) {
    let released = Arc::new(AtomicBool::new(false));
    let info = Info::new("d0", common::DISK_BYTES, 512).unwrap();
    let slow = Slow { info, released: Arc::clone(&released) };
    let dead = Rig::over(1, Arc::new(slow), &[reactor(0)]);
    let guest = Many::new(packed);
    guest.offer(0..6);
    let (client, log) =
        guest.start(&dead, 0, |client| client.ask_file(code::GET_INFLIGHT_FD, &in_flight(0, 0, 1, SIZE)));
    eventually("two requests are done", || guest.returned().len() == FINISHED.len());
    assert_eq!(guest.returned(), FINISHED);

    // The moment of death. One more request comes while nobody serves.
    let left = Many { file: copy(&guest.file), packed };
    let log = copy(&log);
    left.offer(6..7);
    for done in FINISHED {
        left.write(0x6000 + u64::from(done), &[0xee]);
    }
    let next = Rig::new(1);
    // What QEMU knows then: the index in the used ring, or of a packed ring nothing.
    let base = if packed { 0x8000_8000 } else { 2 };
    let body = in_flight(log.metadata().unwrap().len(), 0, 1, SIZE);
    let (successor, log) = left.start(&next, base, |_| (body, log));
    eventually("all are done", || left.returned().len() == 7);
    assert_eq!(left.returned(), [4, 1, 0, 2, 3, 5, 6], "in the order in which they were taken");
    for chain in 0..7 {
        let expected = if FINISHED.contains(&chain) { 0xee } else { 0 };
        assert_eq!(left.status(chain), expected, "chain {chain}: none is done twice");
    }
    // Where it stands now is where the client is told to go on.
    let told = successor.ask(code::GET_VRING_BASE, &words32(&[0, 0]), &[]).unwrap();
    let expected: u32 = if packed { 0x8015_8015 } else { 7 };
    assert_eq!(told[4..], expected.to_le_bytes());
    drop(successor);
    assert_eq!(next.stop().queues[0].board.snapshot().requests, 5);

    // A third finds nothing left to do.
    let third = Rig::new(1);
    let body = in_flight(log.metadata().unwrap().len(), 0, 1, SIZE);
    let (_last, _log) = left.start(&third, if packed { 0 } else { 7 }, |_| (body, log));
    left.offer(7..8);
    eventually("the last one is done", || left.returned().len() == 8);
    assert_eq!(third.stop().queues[0].board.snapshot().requests, 1);

    released.store(true, Ordering::Relaxed);
    drop(client);
    dead.stop();
}

#[test]
fn a_successor_does_what_was_in_flight_in_a_split_ring() {
    let _alone = alone();
    die_and_go_on(false);
}

#[test]
fn a_successor_does_what_was_in_flight_in_a_packed_ring() {
    let _alone = alone();
    die_and_go_on(true);
}

/// The dead may have returned requests and told nobody. So whoever serves next interrupts once, and once more where interrupts go
/// from now on.
#[test]
fn a_successor_interrupts_though_nothing_is_left_to_do() {
    let _alone = alone();
    let (rig, guest) = (Rig::new(1), Many::new(false));
    let flags = nix::sys::eventfd::EfdFlags::EFD_NONBLOCK;
    let calls = [(); 2].map(|()| nix::sys::eventfd::EventFd::from_flags(flags).unwrap());
    let set = |client: &Client, call: &nix::sys::eventfd::EventFd| {
        client.ask_u64(code::SET_VRING_CALL, &words64(&[0]), &[call.as_fd().as_raw_fd()])
    };
    let (client, _log) = guest.start(&rig, 0, |client| {
        assert_eq!(set(client, &calls[0]), Some(0));
        client.ask_file(code::GET_INFLIGHT_FD, &in_flight(0, 0, 1, SIZE))
    });
    eventually("the first interrupt", || calls[0].read().is_ok());
    assert_eq!(set(&client, &calls[1]), Some(0));
    eventually("the second interrupt", || calls[1].read().is_ok());
    drop(client);
    assert_eq!(rig.stop().queues[0].board.snapshot().requests, 0);
}

/// Any log, however damaged, costs at most the session that brought it.
#[test]
fn damaged_logs_end_their_own_session_only() {
    let _alone = alone();
    let rig = Rig::new(1);
    let mut number = 1u64;
    for round in 0..200 {
        let packed = round % 2 == 1;
        let guest = Many::new(packed);
        guest.offer(0..6);
        let log = memory(2048);
        for at in 0..256 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Small numbers, which could mean something, and some that could not.
            let word = if number >> 60 == 0 { number } else { (number >> 33) & 0x0007_0007_0007_0007 };
            log.write_all_at(&word.to_le_bytes(), 8 * at).unwrap();
        }
        let header = words32(&[0, 0, 1 | u32::from(SIZE) << 16]);
        log.write_all_at(&header, 0).unwrap();
        let client = rig.client();
        client.hello();
        let features = 1u64 << 32 | 1 << 30 | if packed { 1 << 34 } else { 0 };
        client.ask_u64(code::SET_FEATURES, &features.to_le_bytes(), &[]);
        client.ask_u64(code::SET_INFLIGHT_FD, &in_flight(2048, 0, 1, SIZE), &[log.as_raw_fd()]);
        client.ask_u64(code::ADD_MEM_REG, &region(GUEST, MEMORY_BYTES, USER, 0), &[guest.file.as_raw_fd()]);
        let addresses = [words32(&[0, 0]), words64(&[USER, USER + 0x2000, USER + 0x1000, 0])].concat();
        client.ask_u64(code::SET_VRING_NUM, &words32(&[0, SIZE.into()]), &[]);
        client.ask_u64(code::SET_VRING_ADDR, &addresses, &[]);
        client.ask_u64(code::SET_VRING_ENABLE, &words32(&[0, 1]), &[]);
        client.ask_u64(code::SET_VRING_KICK, &words64(&[0]), &[]);
    }
    let (client, mut guest) = (rig.client(), common::Guest::new());
    client.hello();
    assert!(guest.start(&client, 0) && guest.work(10));
    rig.stop();
}
