//! The driver's end of a queue: 4 KiB reads, at as little cost as a driver can have.
//!
//! The chains go round in order, and the null disk answers in order, so what comes back needs no looking up. Per
//! request the driver writes the header's sector and the ring's entry, and reads the used entry and the status byte: what
//! crosses between cores is what a real driver and device exchange.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use spinblk_virtio::{MemoryMap, RingConfig, RingKind};

use crate::arena::Arena;
use crate::layout::{
    BUFFERS, CHAINS, DESCS, DEVICE_AREA, DRIVER_AREA, Entry, NEXT, Shape, header, status, table,
};

/// Sectors that are read: whole blocks of 4 KiB in the first 8 GiB, less than the disk has.
const SECTOR_MASK: u64 = (1 << 24) - 8;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// No interrupts, in a split ring's avail flags and in a packed ring's event suppression.
const NO_INTERRUPT: u16 = 1;

/// The driver's end of a virtqueue.
pub struct Driver {
    arena: Arc<Arena>,
    shape: Shape,
    /// Requests offered and answered so far.
    offered: u64,
    answered: u64,
}

impl Driver {
    /// Lays out the memory; nothing is offered yet.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let driver = Self { arena: shape.arena(), shape, offered: 0, answered: 0 };
        (0..CHAINS).for_each(|chain| driver.lay_out(chain));
        let flags = match shape.kind {
            RingKind::Split => DRIVER_AREA,
            RingKind::Packed => DRIVER_AREA + 2,
        };
        driver.arena.word16(flags).store(NO_INTERRUPT, Relaxed);
        driver
    }

    /// The memory as the device is to see it.
    #[must_use]
    pub fn memory_map(&self) -> Arc<MemoryMap> {
        self.shape.memory_map(&self.arena)
    }

    /// What to tell the device about the ring.
    #[must_use]
    pub fn ring_config(&self) -> RingConfig {
        self.shape.ring_config()
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.offered - self.answered
    }

    /// Requests answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Offers the next `count` reads, together. The caller keeps no more than [`CHAINS`] in flight.
    #[inline]
    pub fn offer(&mut self, count: u16) {
        for _ in 0..count {
            let chain = (self.offered % u64::from(CHAINS)) as u16;
            self.arena.word64(header(chain) + 8).store(self.offered & SECTOR_MASK, Relaxed);
            match self.shape.kind {
                RingKind::Split => self.offer_split(chain),
                RingKind::Packed => self.offer_packed(chain),
            }
            self.offered += 1;
        }
        if self.shape.kind == RingKind::Split {
            self.arena.word16(DRIVER_AREA + 2).store(self.offered as u16, Release);
        }
    }

    #[inline]
    fn offer_split(&mut self, chain: u16) {
        let slot = self.offered as usize & (usize::from(self.shape.ring_size()) - 1);
        self.arena.word16(DRIVER_AREA + 4 + 2 * slot).store(chain * self.shape.places(), Relaxed);
    }

    /// Writes the chain anew, for the device has overwritten it; its head last.
    #[inline]
    fn offer_packed(&mut self, chain: u16) {
        let wrap = (self.offered / u64::from(CHAINS)).is_multiple_of(2);
        let available = if wrap { AVAIL } else { USED };
        for index in (0..self.shape.places()).rev() {
            let Entry { iova, len_bytes, flags } = self.shape.entry(chain, index);
            let at = DESCS + 16 * usize::from(chain * self.shape.places() + index);
            let rest = u64::from(len_bytes) | u64::from(chain) << 32 | u64::from(flags | available) << 48;
            self.arena.word64(at).store(iova, Relaxed);
            self.arena.word64(at + 8).store(rest, Release);
        }
    }

    /// Takes what was answered and says how many.
    ///
    /// # Panics
    /// When a request failed: no figure would mean anything.
    #[inline]
    pub fn collect(&mut self) -> u16 {
        let count = match self.shape.kind {
            RingKind::Split => {
                self.arena.word16(DEVICE_AREA + 2).load(Acquire).wrapping_sub(self.answered as u16)
            }
            RingKind::Packed => self.used_packed(),
        };
        let mut faults = 0;
        for _ in 0..count {
            let chain = (self.answered % u64::from(CHAINS)) as u16;
            faults |= self.arena.byte(status(chain)).load(Relaxed);
            if self.shape.kind == RingKind::Split {
                let slot = self.answered as usize & (usize::from(self.shape.ring_size()) - 1);
                let id = self.arena.word16(DEVICE_AREA + 4 + 8 * slot).load(Relaxed);
                faults |= u8::from(id != chain * self.shape.places());
            }
            self.answered += 1;
        }
        assert!(faults == 0, "the device failed a request or answered out of order");
        count
    }

    /// Keeps in flight what is, for so long, against a device on another core; requests per second.
    pub fn drive(&mut self, time: Duration) -> f64 {
        let (began, before, mut polls) = (Instant::now(), self.answered, 0u32);
        loop {
            let answered = self.collect();
            if answered > 0 {
                self.offer(answered);
            }
            polls = polls.wrapping_add(1);
            if polls.is_multiple_of(1024) && began.elapsed() >= time {
                return (self.answered - before) as f64 / began.elapsed().as_secs_f64();
            }
        }
    }

    /// How many used descriptors lie there.
    #[inline]
    fn used_packed(&self) -> u16 {
        let in_flight = self.in_flight() as u16;
        let is_still_out = |ahead: &u16| {
            let at = self.answered + u64::from(*ahead);
            let place = (at % u64::from(CHAINS)) as usize * usize::from(self.shape.places());
            let flags = self.arena.word16(DESCS + 16 * place + 14).load(Acquire);
            let wrap = (at / u64::from(CHAINS)).is_multiple_of(2);
            (flags & AVAIL != 0) != wrap || (flags & USED != 0) != wrap
        };
        (0..in_flight).find(is_still_out).unwrap_or(in_flight)
    }

    /// Writes all of a chain that never changes.
    fn lay_out(&self, chain: u16) {
        // A read is type 0; the sector is written with each offer.
        self.arena.word64(header(chain)).store(0, Relaxed);
        if self.shape.indirect {
            for index in 0..BUFFERS {
                let (at, entry) = (table(chain) + 16 * usize::from(index), self.shape.buffer(chain, index));
                match self.shape.kind {
                    RingKind::Split => self.put(at, entry, entry.flags, index + 1),
                    // No NEXT in a packed ring's tables, and the flags where a split one has `next` (2.8.7).
                    RingKind::Packed => self.put(at, entry, 0, entry.flags & !NEXT),
                }
            }
        }
        if self.shape.kind == RingKind::Split {
            for index in 0..self.shape.places() {
                let (at, entry) = (chain * self.shape.places() + index, self.shape.entry(chain, index));
                self.put(DESCS + 16 * usize::from(at), entry, entry.flags, at + 1);
            }
        }
    }

    /// Writes a descriptor with its last two words in the order of the format.
    fn put(&self, at: usize, entry: Entry, third: u16, fourth: u16) {
        let rest = u64::from(entry.len_bytes) | u64::from(third) << 32 | u64::from(fourth) << 48;
        self.arena.word64(at).store(entry.iova, Relaxed);
        self.arena.word64(at + 8).store(rest, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, null_disk};

    /// Every shape is served to the last request, over several rounds of the ring and in uneven batches.
    #[test]
    fn every_shape_is_served() {
        let disk = null_disk().unwrap();
        for kind in [RingKind::Split, RingKind::Packed] {
            for indirect in [false, true] {
                for regions in [1, 2, 8] {
                    let mut driver = Driver::new(Shape { kind, indirect, regions });
                    let mut device = Device::new(&*disk, &driver).unwrap();
                    if regions == 2 {
                        device.keep_log(&driver).unwrap();
                    }
                    for depth in [1, 7, 32, CHAINS] {
                        device.serve(&mut driver, depth, 1000);
                    }
                    assert_eq!(driver.in_flight(), 0);
                    assert!(driver.answered() >= 4000);
                }
            }
        }
    }
}
