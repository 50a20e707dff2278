//! A channel on a ring of its own, with memory for each tag.

use std::sync::Arc;
use std::time::{Duration, Instant};

use spinblk_bdev::{Bdev, BrokenChannel, Channel, Completion, Io, IoError, IoResult, Op, Segment};
use spinblk_reactor::{BufId, Hugepages, Memory, Ring};

use super::Request;

/// Memory for each tag.
pub(crate) const ARENA_BYTES: usize = 256 << 10;
/// What lies on both sides of it, to find what was written beyond.
const MARGIN_BYTES: usize = 4096;
/// How much of what is not an I/O's memory is looked at, on each side.
const GUARD_BYTES: usize = 64;
/// What memory holds that nobody should have written to.
const UNTOUCHED: u8 = 0xEE;
/// Long enough for any disk; a test that waits longer has lost a completion.
const PATIENCE: Duration = Duration::from_secs(30);

/// A channel on a ring of its own, with memory for each tag.
pub(crate) struct Bench {
    ring: Ring,
    channel: Box<dyn Channel>,
    depth: usize,
    arena: Arc<Memory>,
    buf: Option<BufId>,
    segments: Vec<Vec<Segment>>,
    pub(crate) done: Vec<Completion>,
    pub(crate) in_flight: usize,
}

impl Bench {
    pub(crate) fn new(bdev: &dyn Bdev, depth: usize) -> Self {
        let mut ring = Ring::new(64).unwrap();
        let channel = bdev.open(&mut ring, depth).unwrap();
        let len_bytes = depth * (ARENA_BYTES + 2 * MARGIN_BYTES);
        let arena = Arc::new(Memory::new(len_bytes, Hugepages::Off, "test arena").unwrap());
        // SAFETY: the arena is mapped until `drop`, which releases it.
        let buf = unsafe { ring.acquire_buffer(arena.as_ptr(), arena.len_bytes()) };
        let segments = (0..depth).map(|_| Vec::with_capacity(4096)).collect();
        let done = Vec::with_capacity(depth);
        Self { ring, channel, depth, arena, buf, segments, done, in_flight: 0 }
    }

    /// The byte `at` bytes into a tag's arena.
    fn memory(&self, tag: u32, at: usize) -> *mut u8 {
        let (tag, stride_bytes) = (tag as usize, ARENA_BYTES + 2 * MARGIN_BYTES);
        assert!(tag < self.depth && at <= ARENA_BYTES);
        // SAFETY: just checked: within the arena, which has room for `depth` tags.
        unsafe { self.arena.as_ptr().add(tag * stride_bytes + MARGIN_BYTES + at) }
    }

    /// Bytes of a tag's arena and its margins; from `before` bytes ahead of byte `at`.
    fn bytes(&self, tag: u32, at: usize, before: usize, len_bytes: usize) -> &[u8] {
        assert!(before <= MARGIN_BYTES && at + len_bytes <= ARENA_BYTES + MARGIN_BYTES + before);
        // SAFETY: just checked: within the tag's arena and margins. The tests look at it while nothing of this tag is
        // in flight only, so nobody writes to it.
        unsafe { std::slice::from_raw_parts(self.memory(tag, at).sub(before), len_bytes) }
    }

    pub(crate) fn fill(&mut self, tag: u32, skew: usize, data: &[u8]) {
        assert!(skew + data.len() <= ARENA_BYTES);
        // SAFETY: within the tag's arena, which nothing in flight uses.
        unsafe { self.memory(tag, skew).copy_from(data.as_ptr(), data.len()) };
    }

    pub(crate) fn read_back(&self, tag: u32, skew: usize, len_bytes: usize) -> Vec<u8> {
        assert!(skew + len_bytes <= ARENA_BYTES);
        self.bytes(tag, skew, 0, len_bytes).to_vec()
    }

    /// Puts `data` into a request's pieces (no data: nothing), and known bytes between and around them.
    pub(crate) fn scatter(&mut self, tag: u32, request: &Request, data: &[u8]) {
        let (start, span_bytes) = (request.skew, request.span_bytes());
        assert!(start + span_bytes <= ARENA_BYTES, "{request:?}");
        // SAFETY: within the tag's arena and its margins, which nothing in flight uses.
        unsafe {
            let first = self.memory(tag, start).sub(GUARD_BYTES);
            first.write_bytes(UNTOUCHED, span_bytes + 2 * GUARD_BYTES);
        }
        let mut rest = data;
        for (at, len_bytes) in request.pieces() {
            let (piece, others) = rest.split_at(len_bytes.min(rest.len()));
            self.fill(tag, at, piece);
            rest = others;
        }
    }

    /// Takes the bytes of a request's pieces together in `data`.
    pub(crate) fn gather(&self, tag: u32, request: &Request, data: &mut Vec<u8>) {
        data.clear();
        for (at, len_bytes) in request.pieces() {
            data.extend_from_slice(self.bytes(tag, at, 0, len_bytes));
        }
    }

    /// Whether what `scatter` put between and around the pieces is still there.
    pub(crate) fn surroundings_hold(&self, tag: u32, request: &Request) -> bool {
        let untouched = |bytes: &[u8]| bytes == &[UNTOUCHED; GUARD_BYTES][..bytes.len()];
        let end = request.skew + request.span_bytes();
        let gap_bytes = request.gap.min(GUARD_BYTES);
        untouched(self.bytes(tag, request.skew, GUARD_BYTES, GUARD_BYTES))
            && untouched(self.bytes(tag, end, 0, GUARD_BYTES))
            && request.pieces().skip(1).all(|(at, _)| untouched(self.bytes(tag, at, gap_bytes, gap_bytes)))
    }

    pub(crate) fn submit(&mut self, tag: u32, request: &Request) {
        assert!(request.skew + request.span_bytes() <= ARENA_BYTES);
        let arena = self.memory(tag, 0);
        let segments = &mut self.segments[tag as usize];
        segments.clear();
        segments
            .extend(request.pieces().map(|(at, len_bytes)| Segment::new(arena.wrapping_add(at), len_bytes)));
        let buf = if request.fixed { self.buf } else { None };
        let (offset, len) = (request.offset_bytes, request.len_bytes);
        // SAFETY: the segments stay as they are until the tag is submitted again, which the tests do after its
        // completion only; the arena lives as long as the channel.
        let io = unsafe { Io::new(request.op, offset, len, segments, buf, tag) };
        self.in_flight += 1;
        if let Some(result) = self.channel.submit(&io, &mut self.ring) {
            self.done.push(Completion { tag, result });
        }
    }

    /// Offers a read under a tag that the channel must not take: beyond its depth, or in flight.
    pub(crate) fn submit_against_the_contract(&mut self, tag: u32, len_bytes: usize) -> Option<IoResult> {
        let segments = [Segment::new(self.memory(0, 0), len_bytes)];
        // SAFETY: only a channel that refuses the tag at once is asked; it keeps nothing of the I/O.
        let io = unsafe { Io::new(Op::Read, 0, len_bytes as u64, &segments, None, tag) };
        self.channel.submit(&io, &mut self.ring)
    }

    /// One turn: what is in the ring goes to the kernel, and what has completed comes to `done`.
    pub(crate) fn turn(&mut self) {
        self.ring.enter().unwrap();
        self.channel.poll(&mut self.ring, &mut self.done);
    }

    /// Waits for at least `count` completions and takes all that there are.
    pub(crate) fn wait(&mut self, count: usize) -> Vec<Completion> {
        let start = Instant::now();
        while self.done.len() < count {
            self.turn();
            if self.done.is_empty() {
                std::thread::yield_now();
            }
            assert!(start.elapsed() < PATIENCE, "{} of {count} completions came", self.done.len());
        }
        assert!(self.done.len() <= self.in_flight, "reported more than once: {:?}", self.done);
        self.in_flight -= self.done.len();
        // Keeps the vector's room, as the contract of `poll` wants.
        self.done.drain(..).collect()
    }

    /// Polls until nothing is in flight, and once more; takes nothing out of `done`.
    pub(crate) fn drain(&mut self) {
        let start = Instant::now();
        while self.done.len() < self.in_flight {
            self.turn();
            assert!(start.elapsed() < PATIENCE, "{} of {} completions came", self.done.len(), self.in_flight);
        }
        self.turn();
        assert_eq!(self.done.len(), self.in_flight, "an I/O was reported twice");
    }

    /// Drops what is in `done`, without allocating.
    pub(crate) fn forget_done(&mut self) {
        self.in_flight -= self.done.len();
        self.done.clear();
    }

    /// Drops the channel with whatever it has in flight, waits until the kernel is done with that, and opens another on
    /// the same ring.
    pub(crate) fn drop_and_reopen(&mut self, bdev: &dyn Bdev) {
        self.channel = Box::new(BrokenChannel);
        let start = Instant::now();
        while self.ring.in_flight() > 0 {
            self.ring.enter().unwrap();
            assert!(start.elapsed() < PATIENCE, "{} operations are still out", self.ring.in_flight());
        }
        self.done.clear();
        self.in_flight = 0;
        self.channel = bdev.open(&mut self.ring, self.depth).unwrap();
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

    pub(crate) fn read(&mut self, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>, IoError> {
        self.fill(0, 0, &vec![UNTOUCHED; len_bytes]);
        self.run(&Request::new(Op::Read, offset_bytes, len_bytes))?;
        Ok(self.read_back(0, 0, len_bytes))
    }

    /// Whether the kernel takes vectors in a registered buffer (Linux 6.15).
    pub(crate) fn has_fixed_vectors(&self) -> bool {
        self.ring.supports(spinblk_reactor::opcode::ReadvFixed::CODE)
    }

    pub(crate) fn fixed_buffer_ios(&self) -> u64 {
        self.channel.counters().fixed_buffer_ios
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
            // I/O may be in flight: what the kernel may write to stays, or another test would find it there.
            std::mem::forget(Arc::clone(&self.arena));
            std::mem::forget(std::mem::take(&mut self.segments));
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
