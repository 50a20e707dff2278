//! The lane against a device written from the specification, which counts places from the beginning of time and so
//! shares no arithmetic with it.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use super::*;
use crate::ring::layout::{RingFormat, Shape};

const BLOCK: u32 = 512;

/// A chain as the device sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    id: u16,
    places: u64,
    /// Address, length, whether the device writes.
    pieces: Vec<(u64, u32, bool)>,
}

/// The other side of the ring.
struct Device {
    memory: Arc<SharedMemory>,
    layout: Layout,
    /// Places passed since the beginning.
    avail: u64,
    used: u64,
}

impl Device {
    fn wrap(&self, count: u64) -> bool {
        (count / u64::from(self.layout.ring_size)).is_multiple_of(2)
    }

    fn at(&self, count: u64) -> usize {
        self.layout.desc + 16 * (count % u64::from(self.layout.ring_size)) as usize
    }

    fn read(&self, at: usize) -> [u64; 2] {
        assert!(at + 16 <= self.memory.len_bytes());
        // SAFETY: in the memory, see above, and 16-byte aligned.
        unsafe { self.memory.start().add(at).cast::<[u64; 2]>().read_volatile() }
    }

    fn offset(&self, address: u64) -> usize {
        (address - self.memory.guest_address(0)) as usize
    }

    /// The next available chain.
    fn take(&mut self) -> Option<Chain> {
        let first = self.avail;
        let mut pieces = Vec::new();
        loop {
            let [address, word] = self.read(self.at(self.avail));
            let (len, id, flags) = (word as u32, (word >> 32) as u16, (word >> 48) as u16);
            let (avail, used, wrap) = (flags >> 7 & 1 == 1, flags >> 15 == 1, self.wrap(self.avail));
            if avail != wrap || used == wrap {
                assert!(pieces.is_empty(), "a chain was shown before it was whole");
                return None;
            }
            self.avail += 1;
            if flags & 4 != 0 {
                assert_eq!((len % 16, flags & 3), (0, 0));
                let entries = (0..len as usize / 16).map(|n| self.read(self.offset(address) + 16 * n));
                pieces.extend(entries.map(|[at, word]| (at, word as u32, word >> 49 & 1 == 1)));
            } else {
                pieces.push((address, len, flags & 2 != 0));
            }
            if flags & 1 == 0 {
                return Some(Chain { id, places: self.avail - first, pieces });
            }
        }
    }

    /// Returns a buffer, with any status.
    fn complete(&mut self, chain: &Chain, status: u8) {
        let (address, len, writes) = chain.pieces[2];
        assert!(len == 1 && writes);
        // SAFETY: the lane's own status byte.
        unsafe { self.memory.start().add(self.offset(address)).write_volatile(status) };
        self.write_used(chain.id, chain.places);
    }

    fn write_used(&mut self, id: u16, places: u64) {
        let flags = if self.wrap(self.used) { 1u16 << 7 | 1 << 15 } else { 0 };
        let at = self.memory.start().wrapping_add(self.at(self.used));
        // SAFETY: in the ring, 16-byte aligned.
        unsafe {
            at.add(12).cast::<u16>().write_volatile(id);
            AtomicU16::from_ptr(at.add(14).cast()).store(flags, Ordering::Release);
        }
        self.used += places;
    }

    /// What the driver's event suppression says: place and wrap, flags.
    fn driver_event(&self) -> (u16, u16) {
        let event = event_word(&self.memory, self.layout.driver).load(Ordering::SeqCst);
        (event as u16, (event >> 16) as u16)
    }

    fn set_device_event(&self, place: u16, flags: u16) {
        event_word(&self.memory, self.layout.device).store(suppression(place, flags), Ordering::SeqCst);
    }

    /// Sector and whether it is a write, from the header.
    fn request(&self, chain: &Chain) -> (u64, bool) {
        let (address, len, writes) = chain.pieces[0];
        assert!(len == 16 && !writes && chain.pieces.len() == 3);
        let [kind, sector] = self.read(self.offset(address));
        let data = chain.pieces[1];
        assert_eq!((data.1, data.2), (BLOCK, kind as u32 == 0), "a read's data is written by the device");
        (sector, kind as u32 == 1)
    }
}

fn pair(depth: u32, indirect: bool, event_idx: bool) -> (PackedLane, Device) {
    let format = RingFormat::Packed;
    pair_of(Shape { format, indirect, depth, block_bytes: BLOCK, power_of_two: false }, event_idx)
}

fn pair_of(shape: Shape, event_idx: bool) -> (PackedLane, Device) {
    let layout = Layout::new(0, shape);
    let memory = Arc::new(SharedMemory::new(layout.end).unwrap());
    PackedLane::suppress_interrupts(&memory, &layout);
    let events = Events::new("test".into(), 7).unwrap();
    let slots = Slots::new(memory.clone(), layout);
    let lane = PackedLane::new(slots, events, event_idx, shape.entries_per_slot());
    (lane, Device { memory, layout, avail: 0, used: 0 })
}

#[test]
fn chains_come_back_in_any_order_through_many_rounds() {
    let cases = [(1, false), (2, false), (5, false), (32, false), (1, true), (7, true)];
    // 3 places a chain never divide a ring of 2^n, so chains lie across its end in all ways.
    let both = [false, true].into_iter().flat_map(|power_of_two| cases.map(|(a, b)| (a, b, power_of_two)));
    for (depth, indirect, power_of_two) in both {
        let format = RingFormat::Packed;
        let shape = Shape { format, indirect, depth, block_bytes: BLOCK, power_of_two };
        let (mut lane, mut device) = pair_of(shape, true);
        let mut rng = crate::rng::Rng::new(u64::from(depth));
        let (mut free, mut taken, mut done) = ((0..depth).collect::<Vec<_>>(), Vec::new(), Vec::new());
        let mut sectors = vec![(0, false); depth as usize];
        let mut completed = 0;
        while completed < 2000 {
            for _ in 0..rng.below(free.len() as u64 + 1) {
                let slot = free.swap_remove(rng.below(free.len() as u64) as usize);
                let (sector, writes) = (rng.below(1 << 40), rng.below(2) == 1);
                sectors[slot as usize] = (sector, writes);
                lane.prepare(slot, if writes { Op::Write } else { Op::Read }, sector * 512);
            }
            assert_eq!(device.take(), None, "nothing is seen before it is published");
            lane.publish().unwrap();
            while let Some(chain) = device.take() {
                assert_eq!(device.request(&chain), sectors[usize::from(chain.id)]);
                taken.push(chain);
            }
            assert_eq!(taken.len() + free.len(), depth as usize);
            for _ in 0..rng.below(taken.len() as u64 + 1) {
                let chain = taken.swap_remove(rng.below(taken.len() as u64) as usize);
                device.complete(&chain, (chain.id % 3) as u8);
            }
            lane.reap(&mut done).unwrap();
            completed += done.len();
            for Done { slot, fault } in done.drain(..) {
                assert_eq!(fault.is_some(), slot % 3 != 0);
                free.push(slot);
            }
            assert_eq!(taken.len() + free.len(), depth as usize, "every completion is seen");
        }
    }
}

#[test]
fn ids_that_are_not_in_flight_are_the_devices_fault() {
    for id in [0, 2, 4, 9, u16::MAX] {
        let (mut lane, mut device) = pair(4, false, false);
        let mut done = Vec::new();
        for slot in [0, 1] {
            lane.prepare(slot, Op::Read, 0);
        }
        lane.publish().unwrap();
        // 0 is in flight, but only once.
        device.write_used(0, 3);
        device.write_used(id, 3);
        let error = lane.reap(&mut done).unwrap_err().to_string();
        assert!(error.contains("queue 7") && error.contains(&format!("names the buffer {id}, which is not")));
        assert_eq!(done.len(), 1);
    }
}

#[test]
fn completions_out_of_nowhere_are_left_alone() {
    let (mut lane, mut device) = pair(4, false, false);
    device.write_used(3, 3);
    let mut done = Vec::new();
    lane.reap(&mut done).unwrap();
    assert!(done.is_empty(), "nothing is in flight, so nothing is looked at");
}

#[test]
fn the_device_is_woken_as_it_asks() {
    let (mut lane, mut device) = pair(5, false, true);
    let size = device.layout.ring_size;
    let mut kicks = |device: &mut Device, batch: u32| {
        let before = lane.kicks();
        (0..batch).for_each(|slot| lane.prepare(slot, Op::Read, 0));
        lane.publish().unwrap();
        while let Some(chain) = device.take() {
            device.complete(&chain, 0);
        }
        lane.reap(&mut Vec::new()).unwrap();
        lane.kicks() - before
    };
    device.set_device_event(0, EVENT_ENABLE);
    assert_eq!(kicks(&mut device, 2), 1);
    device.set_device_event(0, EVENT_DISABLE);
    assert_eq!(kicks(&mut device, 2), 0);
    // Each place in turn, over several rounds: one kick when it lies in the batch, none otherwise.
    for round in 0..200u64 {
        let batch = 1 + round as u32 % 5;
        for (ahead, wanted) in [(0, 1), (u64::from(batch) * 3 - 1, 1), (u64::from(batch) * 3, 0)] {
            let count = device.avail + ahead;
            let wrap = if device.wrap(count) { EVENT_WRAP } else { 0 };
            let place = (count % u64::from(size)) as u16 | wrap;
            device.set_device_event(place, EVENT_AT_PLACE);
            assert_eq!(kicks(&mut device, batch), wanted, "round {round}, {ahead} places ahead");
        }
        // A place behind asks for nothing.
        let count = device.avail + 2 * u64::from(size) - 1;
        let wrap = if device.wrap(count) { EVENT_WRAP } else { 0 };
        device.set_device_event((count % u64::from(size)) as u16 | wrap, EVENT_AT_PLACE);
        assert_eq!(kicks(&mut device, batch), 0);
    }
    // Places beyond the ring make no sense, and do no harm.
    for place in [size, size | EVENT_WRAP, 0x7FFF, 0xFFFF] {
        device.set_device_event(place, EVENT_AT_PLACE);
        assert!(kicks(&mut device, 1) <= 1);
    }
}

#[test]
fn interrupts_are_asked_for_only_while_armed() {
    for event_idx in [true, false] {
        let (mut lane, mut device) = pair(3, false, event_idx);
        let size = u64::from(lane.slots.layout().ring_size);
        assert_eq!(device.driver_event(), (0, EVENT_DISABLE));
        for _ in 0..20 {
            (0..2).for_each(|slot| lane.prepare(slot, Op::Read, 0));
            lane.publish().unwrap();
            let chains = [device.take().unwrap(), device.take().unwrap()];
            assert!(lane.arm());
            let place = (device.used % size) as u16 | if device.wrap(device.used) { EVENT_WRAP } else { 0 };
            let want = if event_idx { (place, EVENT_AT_PLACE) } else { (0, EVENT_ENABLE) };
            assert_eq!(device.driver_event(), want);
            lane.disarm();
            assert_eq!(device.driver_event(), (0, EVENT_DISABLE));
            // What has completed before the lane is armed may never interrupt: it says so.
            device.complete(&chains[1], 0);
            assert!(!lane.arm());
            device.complete(&chains[0], 0);
            let mut done = Vec::new();
            lane.reap(&mut done).unwrap();
            assert_eq!(done.iter().map(|done| done.slot).collect::<Vec<_>>(), [1, 0]);
            assert!(lane.arm());
            lane.disarm();
        }
    }
}
