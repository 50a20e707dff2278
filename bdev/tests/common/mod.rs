//! What the tests of this crate share: a ring with one channel, memory to do I/O with, and disks to try.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use spinblk_bdev::{Bdev, Channel, Completion, Io, IoResult, Op, Segment};
use spinblk_reactor::{BufId, Hugepages, Memory, Ring};
use tempfile::NamedTempFile;

/// Memory for each tag.
pub(crate) const ARENA_BYTES: usize = 256 << 10;
/// Long enough for any disk; a test that waits longer has lost a completion.
const PATIENCE: Duration = Duration::from_secs(30);

/// A channel on a ring of its own, with memory for each tag.
pub(crate) struct Bench {
    ring: Ring,
    channel: Box<dyn Channel>,
    arena: Memory,
    buf: Option<BufId>,
    segments: Vec<Vec<Segment>>,
    pub(crate) done: Vec<Completion>,
    pub(crate) in_flight: usize,
}

/// One I/O of a test. Its memory is `lens` pieces one after the other, from `skew` bytes into the tag's arena.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
    pub(crate) lens: Vec<usize>,
    pub(crate) skew: usize,
    pub(crate) fixed: bool,
}

impl Request {
    pub(crate) fn new(op: Op, offset_bytes: u64, len_bytes: usize) -> Self {
        let lens = if matches!(op, Op::Read | Op::Write) { vec![len_bytes] } else { vec![] };
        Self { op, offset_bytes, len_bytes: len_bytes as u64, lens, skew: 0, fixed: false }
    }
}

impl Bench {
    pub(crate) fn new(bdev: &dyn Bdev, depth: usize) -> Self {
        let mut ring = Ring::new(64).unwrap();
        let channel = bdev.open(&mut ring, depth).unwrap();
        let arena = Memory::new(depth * ARENA_BYTES, Hugepages::Off, "test arena").unwrap();
        // SAFETY: the arena is mapped until `drop`, which releases it.
        let buf = unsafe { ring.acquire_buffer(arena.as_ptr(), arena.len_bytes()) };
        let segments = (0..depth).map(|_| Vec::with_capacity(4096)).collect();
        let done = Vec::with_capacity(depth);
        Self { ring, channel, arena, buf, segments, done, in_flight: 0 }
    }

    /// The first byte of a request's memory.
    pub(crate) fn memory(&self, tag: u32, skew: usize) -> *mut u8 {
        assert!(skew < ARENA_BYTES);
        // SAFETY: tags are below the depth that the arena was made for.
        unsafe { self.arena.as_ptr().add(tag as usize * ARENA_BYTES + skew) }
    }

    pub(crate) fn fill(&mut self, tag: u32, skew: usize, data: &[u8]) {
        assert!(skew + data.len() <= ARENA_BYTES);
        // SAFETY: within the tag's arena, which nothing in flight uses.
        unsafe { self.memory(tag, skew).copy_from(data.as_ptr(), data.len()) };
    }

    pub(crate) fn read_back(&self, tag: u32, skew: usize, len_bytes: usize) -> Vec<u8> {
        assert!(skew + len_bytes <= ARENA_BYTES);
        let mut data = vec![0; len_bytes];
        // SAFETY: within the tag's arena, which nothing in flight uses.
        unsafe { self.memory(tag, skew).copy_to(data.as_mut_ptr(), len_bytes) };
        data
    }

    pub(crate) fn submit(&mut self, tag: u32, request: &Request) {
        let mut ptr = self.memory(tag, request.skew);
        self.segments[tag as usize].clear();
        for &len_bytes in &request.lens {
            self.segments[tag as usize].push(Segment::new(ptr, len_bytes));
            ptr = ptr.wrapping_add(len_bytes);
        }
        assert!(ptr.addr() <= self.memory(tag, 0).addr() + ARENA_BYTES);
        let buf = if request.fixed { self.buf } else { None };
        let (offset, len) = (request.offset_bytes, request.len_bytes);
        // SAFETY: the segments stay as they are until the tag is submitted again, which the tests do after its
        // completion only; the arena lives as long as the channel.
        let io = unsafe { Io::new(request.op, offset, len, &self.segments[tag as usize], buf, tag) };
        self.in_flight += 1;
        if let Some(result) = self.channel.submit(&io, &mut self.ring) {
            self.done.push(Completion { tag, result });
        }
    }

    /// Waits for at least `count` completions and takes all that there are.
    pub(crate) fn wait(&mut self, count: usize) -> Vec<Completion> {
        let start = Instant::now();
        while self.done.len() < count {
            self.ring.enter().unwrap();
            self.channel.poll(&mut self.ring, &mut self.done);
            assert!(start.elapsed() < PATIENCE, "{} of {count} completions came", self.done.len());
        }
        self.in_flight -= self.done.len();
        // Keeps the vector's room, as the contract of `poll` wants.
        self.done.drain(..).collect()
    }

    /// Polls until nothing is in flight, and once more; takes nothing out of `done`.
    pub(crate) fn drain(&mut self) {
        let start = Instant::now();
        while self.done.len() < self.in_flight {
            self.ring.enter().unwrap();
            self.channel.poll(&mut self.ring, &mut self.done);
            assert!(start.elapsed() < PATIENCE, "{} of {} completions came", self.done.len(), self.in_flight);
        }
    }

    /// Drops what is in `done`, without allocating.
    pub(crate) fn forget_done(&mut self) {
        self.in_flight -= self.done.len();
        self.done.clear();
    }

    /// One I/O from beginning to end, on tag 0.
    pub(crate) fn run(&mut self, request: &Request) -> IoResult {
        assert_eq!(self.in_flight, 0);
        self.submit(0, request);
        self.wait(1)[0].result
    }

    pub(crate) fn write(&mut self, offset_bytes: u64, data: &[u8]) -> IoResult {
        self.fill(0, 0, data);
        self.run(&Request::new(Op::Write, offset_bytes, data.len()))
    }

    pub(crate) fn read(
        &mut self,
        offset_bytes: u64,
        len_bytes: usize,
    ) -> Result<Vec<u8>, spinblk_bdev::IoError> {
        self.fill(0, 0, &vec![0xEE; len_bytes]);
        self.run(&Request::new(Op::Read, offset_bytes, len_bytes))?;
        Ok(self.read_back(0, 0, len_bytes))
    }

    /// Whether the kernel takes vectors in a registered buffer (Linux 6.15).
    pub(crate) fn has_fixed_vectors(&self) -> bool {
        self.ring.supports(spinblk_reactor::opcode::ReadvFixed::CODE)
    }

    pub(crate) fn fixed_buffer_ios(&self) -> u64 {
        self.channel.fixed_buffer_ios()
    }

    pub(crate) fn submitted(&self) -> u64 {
        self.ring.counters().submitted
    }

    pub(crate) fn has_buffer(&self) -> bool {
        self.buf.is_some()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // A failed property leaves I/O in flight.
        self.drain();
        self.channel.close(&mut self.ring);
        assert_eq!(self.ring.in_flight(), 0);
        if let Some(buf) = self.buf {
            self.ring.release_buffer(buf);
        }
    }
}

/// Where files of the tests go: a file system on a disk, and one in memory.
pub(crate) fn disk_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

pub(crate) fn memory_dir() -> PathBuf {
    PathBuf::from("/dev/shm")
}

/// A file of `size_bytes` of zeroes, removed on drop.
pub(crate) fn file_in(dir: &Path, size_bytes: u64) -> NamedTempFile {
    let file = tempfile::Builder::new().prefix("spinblk-bdev-").tempfile_in(dir).unwrap();
    file.as_file().set_len(size_bytes).unwrap();
    file
}

/// Bytes that tell where they were meant to go.
pub(crate) fn pattern(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len_bytes).map(next).collect()
}
