//! One request from its chain to its used entry.

use spinblk_bdev::{Channel, Io, IoError, IoResult, Op, Segment};
use spinblk_perf::OpKind;
use spinblk_reactor::Ring;

use super::account::{Passed, What};
use super::request::{Action, Status, parse};
use super::usual::Usual;
use crate::chain::{Chain, Header};
use crate::virtqueue::Head;

/// One request. What most requests touch comes first, with the first segment of the chain next to it.
#[repr(C)]
pub(super) struct Slot {
    /// Its chain, and what the ring's log calls that: while it is in flight.
    pub(super) head: Head,
    pub(super) mark: u16,
    /// Where the status goes; null if there is no place for it.
    status: *mut u8,
    /// Bytes that count as written when it succeeds, and when it fails: those from the front on without a gap (2.7.8.2),
    /// the status too when they reach it.
    written_bytes: [u32; 2],
    pub(super) chain: Chain,
    /// What it is, once it was started by `start`, and while it is in flight.
    pub(super) what: What,
    /// How it came to the block device, while it is in flight.
    pub(super) passed: Passed,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            head: Head::default(),
            mark: 0,
            status: std::ptr::null_mut(),
            written_bytes: [0; 2],
            chain: Chain::default(),
            what: What::default(),
            passed: Passed::default(),
        }
    }
}

impl Slot {
    /// Starts a read or write that needs no chain; the result if it is done at once.
    #[inline(always)]
    pub(super) fn start_usual(
        &mut self,
        usual: Usual,
        index: u16,
        channel: &mut dyn Channel,
        ring: &mut Ring,
    ) -> Option<IoResult> {
        let Usual { op, offset_bytes, data, buf, status } = usual;
        let len_bytes = data.len_bytes() as u64;
        self.status = status;
        self.written_bytes = match op {
            Op::Read => [len_bytes as u32 + 1, 0],
            _ => [1, 1],
        };
        let segments = self.chain.one_segment(data);
        // SAFETY: the segment lies in this slot, which is not touched again until the I/O's result is reported (its queue
        // does not list it as free until then); its memory is part of the queue's, which is replaced only by a map that
        // still holds it, or when the queue is quiet, and readable and writable as all regions are.
        let io = unsafe { Io::new(op, offset_bytes, len_bytes, segments, buf, u32::from(index)) };
        channel.submit(&io, ring)
    }

    /// Starts what the chain asks for. Nothing is done for a chain without a `header` to go by: it is faulty, has none, or
    /// has no place for the status, so that nobody could be told how it went.
    #[inline(never)]
    pub(super) fn start(
        &mut self,
        header: Option<Header>,
        index: u16,
        channel: &mut dyn Channel,
        serial: &[u8],
        ring: &mut Ring,
    ) -> Option<IoResult> {
        let chain = &self.chain;
        self.status = chain.status();
        self.what = What { kind: OpKind::Other, bytes: 0, offset_bytes: 0 };
        self.written_bytes = [chain.lone_status_bytes(); 2];
        let Header { kind, sector } = match header {
            Some(header) => header,
            None => return Some(Err(IoError::Misaligned)),
        };
        let (kind, action) = parse(kind, sector, chain);
        self.what.kind = kind;
        match action {
            Action::Io { op, offset_bytes, len_bytes, segments, buf } => {
                (self.what.bytes, self.what.offset_bytes) = (len_bytes, offset_bytes);
                if op == Op::Read {
                    self.written_bytes[0] = len_bytes as u32 + 1;
                }
                // SAFETY: as in `start_usual`.
                let io = unsafe { Io::new(op, offset_bytes, len_bytes, segments, buf, u32::from(index)) };
                channel.submit(&io, ring)
            }
            Action::GetId(segments) => {
                let bytes = write_bytes(segments, serial);
                let whole = bytes == chain.writable_bytes();
                self.written_bytes[0] = bytes as u32 + u32::from(whole);
                self.what.bytes = bytes;
                Some(Ok(()))
            }
            Action::Refuse(error) => Some(Err(error)),
        }
    }

    /// Writes the status byte; says how many bytes count as written.
    #[inline(always)]
    pub(super) fn finish(&self, result: IoResult) -> u32 {
        let Err(error) = result else {
            // SAFETY: a mapped byte that the walk found, or no request could succeed; the map still holds it (see
            // `start_usual`).
            unsafe { self.status.write_volatile(Status::Ok as u8) };
            return self.written_bytes[0];
        };
        self.fail(error);
        self.written_bytes[1]
    }

    /// Writes the status of a request that failed.
    #[cold]
    fn fail(&self, error: IoError) {
        if !self.status.is_null() {
            // SAFETY: as in `finish`.
            unsafe { self.status.write_volatile(Status::from(error) as u8) };
        }
    }
}

/// Scatters `bytes` over `segments` as far as they go; returns how many were written.
fn write_bytes(segments: &[Segment], bytes: &[u8]) -> u64 {
    let mut left = bytes;
    for segment in segments {
        let (now, rest) = left.split_at(segment.len_bytes().min(left.len()));
        // SAFETY: a mapped, device-writable segment of the chain being served, at least `now.len()` long; guest memory
        // never overlaps the serial, which is ours.
        unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), segment.as_ptr(), now.len()) };
        left = rest;
    }
    (bytes.len() - left.len()) as u64
}
