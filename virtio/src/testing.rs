//! A driver for tests, fuzzing and benches: the other end of a split virtqueue, and a rig that joins it to a queue.
//!
//! ```text
//!   arena at IOVA 0x1_0000:  descriptors | avail | used | one indirect table per head | one data window per head
//! ```
//! It is a model of a driver, written from the specification and apart from the device code; it may break every rule
//! when a test asks for it (see [`Driver::poke`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use spinblk_bdev::Bdev;
use spinblk_perf::Clock;
use spinblk_reactor::{Core, Poller, Progress, Ring};

use crate::blk::{BlkQueue, Device, DeviceOptions, QueueHost};
use crate::{MemoryMap, QueueError, Region, RingAddresses, RingConfig};

/// First IOVA of the arena.
pub const BASE: u64 = 0x1_0000;
/// Entries of a head's indirect table.
pub const TABLE_ENTRIES: usize = 64;

/// One buffer of a chain.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// The device reads these bytes.
    Out(Vec<u8>),
    /// The device may write so many bytes.
    In(usize),
}

/// Zeroed heap memory, so that an address sanitizer sees every step outside it.
struct Arena {
    start: *mut u8,
    len_bytes: usize,
}

// SAFETY: plain memory; all access goes through raw pointers, on whatever thread has the driver or the queue.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    const ALIGN: usize = 4096;

    fn new(len_bytes: usize) -> Self {
        let layout = Self::layout(len_bytes);
        // SAFETY: the layout's size is not zero: a ring has at least one entry.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Self { start, len_bytes }
    }

    fn layout(len_bytes: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len_bytes, Self::ALIGN)
            .unwrap_or(std::alloc::Layout::new::<u64>())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { std::alloc::dealloc(self.start, Self::layout(self.len_bytes)) };
    }
}

/// The driver's end of a split virtqueue in an arena of its own.
pub struct Driver {
    arena: Arc<Arena>,
    size: u16,
    window_bytes: usize,
    event_idx: bool,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    layouts: Vec<Vec<(usize, usize)>>,
    avail_index: u16,
    last_used: u16,
    kicks: u64,
}

impl Driver {
    /// A driver with a ring of `size`, `window_bytes` of data space per head, starting at ring index `start`.
    ///
    /// # Panics
    /// When memory cannot be had.
    #[must_use]
    pub fn new(size: u16, window_bytes: usize, event_idx: bool, start: u16) -> Self {
        let n = usize::from(size);
        let len = Self::data_offset(size, window_bytes, size);
        let arena = Arc::new(Arena::new(len));
        let driver = Self {
            arena,
            size,
            window_bytes,
            event_idx,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); n],
            layouts: vec![Vec::new(); n],
            avail_index: start,
            last_used: start,
            kicks: 0,
        };
        driver.write16(driver.avail_offset() + 2, start);
        driver.write16(driver.used_offset() + 2, start);
        driver.want_interrupt(true);
        driver
    }

    /// The memory as the device is to see it.
    #[must_use]
    pub fn memory_map(&self) -> Arc<MemoryMap> {
        Arc::new(MemoryMap::new([self.region_at(BASE)]))
    }

    /// What to tell the device about the ring.
    #[must_use]
    pub fn ring_config(&self) -> RingConfig {
        RingConfig {
            addresses: RingAddresses {
                desc: BASE,
                avail: BASE + self.avail_offset() as u64,
                used: BASE + self.used_offset() as u64,
            },
            size: self.size,
            next_avail: self.avail_index,
            event_idx: self.event_idx,
        }
    }

    /// Puts a chain of `buffers` into the avail ring, indirect or not; `None` when descriptors are short. Buffers are laid
    /// out one after another, `gap` bytes apart, in the head's window.
    pub fn submit(&mut self, buffers: &[Buffer], indirect: bool, gap: usize) -> Option<u16> {
        let needed = if indirect { 1 } else { buffers.len() };
        if self.free.len() < needed || buffers.is_empty() || buffers.len() > TABLE_ENTRIES {
            return None;
        }
        let ids: Vec<u16> = (0..needed).filter_map(|_| self.free.pop()).collect();
        let head = ids[0];
        let layout = self.lay_out(head, buffers, gap);
        if indirect {
            let table = self.table_offset(head);
            self.write_descriptor(ids[0], BASE + table as u64, 16 * buffers.len() as u32, 4, 0);
            for (i, (buffer, &(offset, len))) in buffers.iter().zip(&layout).enumerate() {
                let flags = flags(buffer, i + 1 < buffers.len());
                self.write_entry(table + 16 * i, BASE + offset as u64, len as u32, flags, i as u16 + 1);
            }
        } else {
            for (i, (buffer, &(offset, len))) in buffers.iter().zip(&layout).enumerate() {
                let next = ids.get(i + 1).copied();
                let flags = flags(buffer, next.is_some());
                self.write_descriptor(ids[i], BASE + offset as u64, len as u32, flags, next.unwrap_or(0));
            }
        }
        self.chains[usize::from(head)] = ids;
        self.layouts[usize::from(head)] = layout;
        self.make_available(head);
        Some(head)
    }

    /// Puts `head` into the avail ring and publishes it, whatever it is; counts the kick that a real driver would give.
    pub fn make_available(&mut self, head: u16) {
        let slot = usize::from(self.avail_index % self.size);
        self.write16(self.avail_offset() + 4 + 2 * slot, head);
        let old = self.avail_index;
        self.avail_index = old.wrapping_add(1);
        fence(Ordering::Release);
        self.write16(self.avail_offset() + 2, self.avail_index);
        fence(Ordering::SeqCst);
        let kick = if self.event_idx {
            let event = self.read16(self.used_offset() + 4 + 8 * usize::from(self.size));
            self.avail_index.wrapping_sub(event).wrapping_sub(1) < self.avail_index.wrapping_sub(old)
        } else {
            self.read16(self.used_offset()) & 1 == 0
        };
        self.kicks += u64::from(kick);
    }

    /// Takes what the device has returned: heads and written bytes. Frees the descriptors; the data stay readable until the
    /// head is used again.
    pub fn completed(&mut self) -> Vec<(u16, u32)> {
        let mut got = Vec::new();
        while self.last_used != self.read16(self.used_offset() + 2) {
            fence(Ordering::Acquire);
            let at = self.used_offset() + 4 + 8 * usize::from(self.last_used % self.size);
            let (head, written) = (self.read32(at), self.read32(at + 4));
            self.last_used = self.last_used.wrapping_add(1);
            let chain = usize::try_from(head).ok().and_then(|head| self.chains.get_mut(head));
            self.free.extend(chain.map(std::mem::take).unwrap_or_default());
            got.push((head as u16, written));
        }
        got
    }

    /// Asks for an interrupt with the next used entry, or for none.
    pub fn want_interrupt(&self, want: bool) {
        if self.event_idx {
            let event = if want { self.last_used } else { self.last_used.wrapping_sub(1) };
            self.write16(self.avail_offset() + 4 + 2 * usize::from(self.size), event);
        } else {
            self.write16(self.avail_offset(), u16::from(!want));
        }
        fence(Ordering::SeqCst);
    }

    /// The bytes of buffer `index` of the chain at `head`.
    #[must_use]
    pub fn buffer(&self, head: u16, index: usize) -> Vec<u8> {
        let (offset, len) = self.layouts[usize::from(head)][index];
        (offset..offset + len).map(|at| self.read8(at)).collect()
    }

    /// Kicks that the device should have suppressed.
    #[must_use]
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        self.arena.len_bytes
    }

    /// Writes any byte of the arena, as a driver gone mad would.
    pub fn poke(&self, offset: usize, byte: u8) {
        let offset = offset % self.arena.len_bytes;
        // SAFETY: within the arena.
        unsafe { self.arena.start.add(offset).write_volatile(byte) };
    }

    /// Reads any byte of the arena.
    #[must_use]
    pub fn peek(&self, offset: usize) -> u8 {
        self.read8(offset % self.arena.len_bytes)
    }

    /// The arena as a region at another IOVA.
    #[must_use]
    pub fn region_at(&self, iova: u64) -> Region {
        let len = self.arena.len_bytes as u64;
        // SAFETY: the arena is mapped for as long as the `Arc` in the region lives, and only raw pointers reach into it.
        unsafe { Region::new(iova, len, self.arena.start, true, self.arena.clone()) }
    }

    /// Writes descriptor `index` of the ring's own table.
    pub fn write_descriptor(&self, index: u16, iova: u64, len: u32, flags: u16, next: u16) {
        self.write_entry(16 * usize::from(index), iova, len, flags, next);
    }

    /// Writes entry `index` of `head`'s indirect table and returns the table's IOVA.
    pub fn write_table_entry(
        &self,
        head: u16,
        index: usize,
        iova: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) -> u64 {
        let table = self.table_offset(head);
        self.write_entry(table + 16 * (index % TABLE_ENTRIES), iova, len, flags, next);
        BASE + table as u64
    }

    /// Sets the avail index without regard to what is in the ring.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail_index = index;
        self.write16(self.avail_offset() + 2, index);
    }

    /// IOVA of the data window of `head`.
    #[must_use]
    pub fn window(&self, head: u16) -> u64 {
        BASE + Self::data_offset(self.size, self.window_bytes, head) as u64
    }

    fn lay_out(&self, head: u16, buffers: &[Buffer], gap: usize) -> Vec<(usize, usize)> {
        let start = Self::data_offset(self.size, self.window_bytes, head);
        let mut offset = start;
        buffers
            .iter()
            .map(|buffer| {
                let len = match buffer {
                    Buffer::Out(bytes) => bytes.len(),
                    Buffer::In(len) => *len,
                };
                let at = offset;
                offset += len + gap;
                assert!(offset <= start + self.window_bytes, "buffers larger than the window");
                for i in 0..len {
                    self.poke(at + i, if let Buffer::Out(bytes) = buffer { bytes[i] } else { 0xee });
                }
                (at, len)
            })
            .collect()
    }

    fn avail_offset(&self) -> usize {
        16 * usize::from(self.size)
    }

    fn used_offset(&self) -> usize {
        (self.avail_offset() + 6 + 2 * usize::from(self.size)).next_multiple_of(64)
    }

    fn table_offset(&self, head: u16) -> usize {
        Self::tables_offset(self.size) + 16 * TABLE_ENTRIES * usize::from(head)
    }

    fn tables_offset(size: u16) -> usize {
        (26 * usize::from(size) + 256).next_multiple_of(64)
    }

    fn data_offset(size: u16, window_bytes: usize, head: u16) -> usize {
        (Self::tables_offset(size) + 16 * TABLE_ENTRIES * usize::from(size)).next_multiple_of(4096)
            + window_bytes * usize::from(head)
    }

    fn write_entry(&self, offset: usize, iova: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&iova.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        for (i, byte) in bytes.into_iter().enumerate() {
            self.poke(offset + i, byte);
        }
    }

    fn read8(&self, offset: usize) -> u8 {
        // SAFETY: callers stay within the layout of the arena.
        unsafe { self.arena.start.add(offset).read_volatile() }
    }

    fn read16(&self, offset: usize) -> u16 {
        // SAFETY: as above; all 16-bit fields of the ring are aligned.
        u16::from_le(unsafe { self.arena.start.add(offset).cast::<u16>().read_volatile() })
    }

    fn read32(&self, offset: usize) -> u32 {
        u32::from(self.read16(offset)) | u32::from(self.read16(offset + 2)) << 16
    }

    fn write16(&self, offset: usize, value: u16) {
        // SAFETY: callers stay within the layout of the arena; all 16-bit fields of the ring are aligned.
        unsafe { self.arena.start.add(offset).cast::<u16>().write_volatile(value.to_le()) };
    }
}

fn flags(buffer: &Buffer, more: bool) -> u16 {
    u16::from(more) | if matches!(buffer, Buffer::In(_)) { 2 } else { 0 }
}

/// What a queue told its host.
#[derive(Debug, Default)]
pub struct HostLog {
    /// Interrupts.
    pub interrupts: AtomicU64,
    /// Mappings asked for.
    pub unmapped: AtomicU64,
    /// The last address asked for.
    pub last_unmapped: AtomicU64,
    /// Times that the queue broke.
    pub broken: AtomicU32,
}

struct LogHost(Arc<HostLog>);

impl QueueHost for LogHost {
    fn interrupt(&mut self, _: &mut Ring) {
        self.0.interrupts.fetch_add(1, Ordering::Relaxed);
    }
    fn unmapped(&mut self, iova: u64) {
        self.0.unmapped.fetch_add(1, Ordering::Relaxed);
        self.0.last_unmapped.store(iova, Ordering::Relaxed);
    }
    fn broken(&mut self, _: QueueError) {
        self.0.broken.fetch_add(1, Ordering::Relaxed);
    }
}

/// A queue on a reactor core of its own making, on the calling thread, with a [`Driver`] at its other end.
pub struct Rig {
    /// The driver.
    pub driver: Driver,
    /// The device's queue.
    pub queue: BlkQueue,
    /// The reactor's part that pollers see.
    pub core: Box<Core>,
    /// What the queue told its host.
    pub log: Arc<HostLog>,
}

impl Rig {
    /// Joins `driver` to a queue over `bdev`, on a core of its own.
    #[must_use]
    pub fn new(driver: Driver, bdev: &dyn Bdev) -> Self {
        Self::on(Self::core(), driver, bdev)
    }

    /// A core of its own, for [`Rig::on`].
    ///
    /// # Panics
    /// When io_uring cannot be had.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn core() -> Box<Core> {
        let clock = Clock::get();
        Box::new(Core { ring: Ring::new(256).expect("io_uring"), clock, now: clock.now() })
    }

    /// Joins `driver` to a queue over `bdev` on a core that was used before.
    ///
    /// # Panics
    /// When the bdev cannot be opened.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn on(mut core: Box<Core>, driver: Driver, bdev: &dyn Bdev) -> Self {
        let options = DeviceOptions {
            queues: 1,
            queue_size: driver.size,
            serial: "spinblk-test-serial".into(),
            indirect: true,
            event_idx: driver.event_idx,
            // Tests count interrupts; those of coalescing have their own.
            coalesce: false,
        };
        let device = Device::new(bdev.info().clone(), options);
        let channel = bdev.open(&mut core.ring, usize::from(driver.size)).expect("channel");
        let log = Arc::new(HostLog::default());
        let host = Box::new(LogHost(log.clone()));
        let queue =
            BlkQueue::new(&device, channel, host, driver.memory_map(), driver.ring_config(), &mut core.ring)
                .expect("queue");
        Self { driver, queue, core, log }
    }

    /// Closes the queue and gives the core back.
    #[must_use]
    pub fn into_core(self) -> Box<Core> {
        let Self { mut queue, mut core, .. } = self;
        queue.close(&mut core.ring);
        core
    }

    /// One reactor iteration.
    pub fn poll(&mut self) -> Progress {
        self.core.now = self.core.clock.now();
        let progress = self.queue.poll(&mut self.core);
        let _ = self.core.ring.enter();
        progress
    }

    /// Polls until the driver got everything back, a million times at most.
    pub fn drain(&mut self) -> Vec<(u16, u32)> {
        let mut got = Vec::new();
        for _ in 0..1_000_000 {
            self.poll();
            got.extend(self.driver.completed());
            if self.queue.is_quiet() && self.poll() == Progress::Idle {
                got.extend(self.driver.completed());
                break;
            }
        }
        got
    }
}

/// The 16 bytes that open a request.
#[must_use]
pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    header
}
