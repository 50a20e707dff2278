//! The device, its queues, and memory that it shares with us.

use crate::fail::{Fail, ensure};
use crate::pattern::Pattern;
use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};
use nix::errno::Errno;
use std::mem::MaybeUninit;
use std::time::Duration;

const QUEUES: i32 = 2;
const QUEUE_SIZE: i32 = 64;
/// A daemon that was killed must be back by then.
const PATIENCE: Duration = Duration::from_secs(100);
const PIECE_BYTES: usize = 128 << 10;

/// A started device.
pub(super) struct Disk {
    /// Before the device, which must outlive them.
    pub(super) queues: Vec<Blkioq>,
    device: Blkio,
    pub(super) size_bytes: u64,
}

/// Memory that the device may read and write while it is mapped.
pub(super) struct Shared(MemoryRegion);

impl Shared {
    /// Where byte `at` of it is.
    pub(super) fn at(&self, at: usize) -> *mut u8 {
        assert!(at < self.0.len);
        (self.0.addr as *mut u8).wrapping_add(at)
    }

    /// A part of it, at which no request may be.
    pub(super) fn bytes(&mut self, at: usize, len_bytes: usize) -> &mut [u8] {
        assert!(at + len_bytes <= self.0.len);
        // SAFETY: the region is mapped until `Disk::unshare` takes it by value, and lies there whole; the device touches
        // only parts that requests are at, of which the caller says that this is none.
        unsafe { std::slice::from_raw_parts_mut(self.at(at), len_bytes) }
    }
}

/// Puts the device's name and what was tried before its error.
fn failed(what: &'static str) -> impl Fn(blkio::Error) -> Fail {
    move |error| Fail::Check(format!("blkio cannot {what}: {error}"))
}

impl Disk {
    pub(super) fn open(path: &str, poll: bool) -> Result<Disk, Fail> {
        let mut device = Blkio::new("virtio-blk-vhost-vdpa").map_err(failed("make a driver"))?;
        device.set_str("path", path).map_err(failed("set the path"))?;
        device.connect().map_err(failed("connect"))?;
        let size_bytes = device.get_u64("capacity").map_err(failed("read the capacity"))?;
        let (by_interrupt, by_poll) = if poll { (0, QUEUES) } else { (QUEUES, 0) };
        device.set_i32("num-queues", by_interrupt).map_err(failed("set the queues"))?;
        device.set_i32("num-poll-queues", by_poll).map_err(failed("set the polled queues"))?;
        device.set_i32("queue-size", QUEUE_SIZE).map_err(failed("set the queues' size"))?;
        let started = device.start().map_err(failed("start"))?;
        let queues = started.queues.into_iter().chain(started.poll_queues).collect();
        Ok(Disk { queues, device, size_bytes })
    }

    /// New memory for both sides.
    pub(super) fn share(&mut self, len_bytes: usize) -> Result<Shared, Fail> {
        let region = self.device.alloc_mem_region(len_bytes).map_err(failed("make memory"))?;
        self.device.map_mem_region(&region).map_err(failed("map memory"))?;
        Ok(Shared(region))
    }

    /// Takes memory away from the device; no request may be at it.
    pub(super) fn unshare(&mut self, Shared(region): Shared) {
        self.device.unmap_mem_region(&region);
        self.device.free_mem_region(&region);
    }

    /// Waits until one of the queue's requests is done at least; calls `take` with the number of each that is, and whether
    /// the device can do such a thing at all.
    pub(super) fn wait(&mut self, queue: usize, mut take: impl FnMut(usize, bool)) -> Result<(), Fail> {
        let mut done = [const { MaybeUninit::<Completion>::uninit() }; QUEUE_SIZE as usize];
        let mut patience = PATIENCE;
        let count = self.queues[queue]
            .do_io(&mut done, 1, Some(&mut patience), None)
            .map_err(failed("finish a request"))?;
        for completion in &done[..count] {
            // SAFETY: `do_io` has written so many, as it says.
            let completion = unsafe { completion.assume_init_ref() };
            let (ret, is_known) = (completion.ret, completion.ret != -(Errno::EOPNOTSUPP as i32));
            ensure!(ret == 0 || !is_known, "a request failed with error {}", -ret);
            take(completion.user_data, is_known);
        }
        Ok(())
    }

    pub(super) fn write_all(&mut self, pattern: Pattern) -> Result<String, Fail> {
        self.pieces(
            |queue, shared, at, len_bytes| {
                pattern.fill(at, shared.bytes(0, len_bytes));
                queue.write(at, shared.at(0), len_bytes, 0, ReqFlags::empty());
            },
            |_, _| Ok(()),
        )?;
        self.queues[0].flush(0, ReqFlags::empty());
        self.wait(0, |_, _| ())?;
        Ok(format!("{} bytes written", self.size_bytes))
    }

    pub(super) fn check_all(&mut self, pattern: Pattern) -> Result<String, Fail> {
        self.pieces(
            |queue, shared, at, len_bytes| {
                shared.bytes(0, len_bytes).fill(0xa5);
                queue.read(at, shared.at(0), len_bytes, 0, ReqFlags::empty());
            },
            |at, read| {
                ensure!(pattern.is_in(at, read), "the disk does not hold {pattern:?} at byte {at}");
                Ok(())
            },
        )?;
        Ok(format!("{} bytes read", self.size_bytes))
    }

    /// Goes through the disk piece by piece: `ask` makes a request of each, `done` sees the memory when it is done.
    fn pieces(
        &mut self,
        ask: impl Fn(&mut Blkioq, &mut Shared, u64, usize),
        done: impl Fn(u64, &[u8]) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        let mut shared = self.share(PIECE_BYTES)?;
        for at in (0..self.size_bytes).step_by(PIECE_BYTES) {
            let len_bytes = PIECE_BYTES.min((self.size_bytes - at) as usize);
            ask(&mut self.queues[0], &mut shared, at, len_bytes);
            self.wait(0, |_, _| ())?;
            done(at, shared.bytes(0, len_bytes))?;
        }
        self.unshare(shared);
        Ok(())
    }
}
