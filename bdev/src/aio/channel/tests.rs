//! A channel that is told results which no kernel here would give: its operations never leave the submission queue.

use spinblk_reactor::{BufId, Hugepages, Memory};
use tempfile::NamedTempFile;

use super::*;
use crate::aio::{AioOptions, Direct, Poll, target};
use crate::{Capabilities, Segment};

const DEPTH: usize = 2048;
const BLOCK: usize = 4096;

struct Rig {
    ring: Ring,
    channel: AioChannel,
    memory: Memory,
    segments: Vec<Segment>,
    _file: NamedTempFile,
}

impl Rig {
    fn new(direct: Direct) -> Self {
        // Beside the test itself, which lies on a disk: memory file systems have no O_DIRECT everywhere.
        let program = std::env::current_exe().unwrap();
        let file = NamedTempFile::new_in(program.parent().unwrap()).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let options = AioOptions { direct, poll: Poll::On, ..AioOptions::default() };
        let (mut info, mut target) = target::open("t", file.path(), options).unwrap();
        // As on a file system that has all of it.
        info.caps = Capabilities { flush: true, discard: true, write_zeroes: true };
        target.zeroes_by_punching = true;
        let mut ring = Ring::new(8).unwrap();
        let mut channel = AioChannel::open(&info, Arc::new(target), &mut ring, DEPTH).unwrap();
        channel.fixed_vectors = true;
        let memory = Memory::new(4 * BLOCK, Hugepages::Off, "test").unwrap();
        // SAFETY: within the memory just made.
        let piece = |n: usize| unsafe { memory.as_ptr().add(n * BLOCK) };
        let segments = (0..4).map(|n| Segment::new(piece(n), BLOCK)).collect();
        Self { ring, channel, memory, segments, _file: file }
    }

    /// Submits an I/O of `pieces` blocks, in registered memory; for an op without data, of so many blocks.
    fn submit(&mut self, op: Op, pieces: usize, tag: u32) {
        let transfers = matches!(op, Op::Read | Op::Write);
        let segments = if transfers { &self.segments[..pieces] } else { &[] };
        let buf = transfers.then_some(BufId(0));
        // SAFETY: nothing is ever submitted to the kernel, so nothing touches the memory.
        let io = unsafe { Io::new(op, 0, (pieces * BLOCK) as u64, segments, buf, tag) };
        assert_eq!(self.channel.submit(&io, &mut self.ring), None);
    }

    /// Lets the last operation of `tag` end with `result`: the I/O's own result, if it is done.
    fn end(&mut self, tag: u32, result: i32) -> Option<IoResult> {
        let completion = spinblk_reactor::Completion { tag, result };
        self.ring.inbox(self.channel.owner).unwrap().push(completion);
        let mut done = Vec::with_capacity(1);
        self.channel.poll(&mut self.ring, &mut done);
        assert!(done.len() <= 1 && done.iter().all(|completion| completion.tag == tag));
        assert_eq!(self.channel.slots[tag as usize].is_none(), done.len() == 1);
        done.first().map(|completion| completion.result)
    }

    /// What is under way as `tag`.
    fn active(&self, tag: u32) -> Active {
        self.channel.slots[tag as usize].unwrap()
    }

    fn counters(&self) -> ChannelCounters {
        self.channel.counters()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Nothing is in flight, whatever the channel believes.
        self.channel.slots.fill(None);
        assert!(self.memory.len_bytes() > 0);
    }
}

fn errno(errno: i32) -> Option<IoResult> {
    Some(Err(IoError::Errno(errno)))
}

#[test]
fn try_again_means_a_thousand_times_in_a_row() {
    let mut rig = Rig::new(Direct::Off);
    rig.submit(Op::Write, 1, 0);
    for n in 0..1000 {
        assert_eq!(rig.end(0, -[libc::EAGAIN, libc::EINTR][n % 2]), None, "try {n}");
    }
    assert_eq!(rig.end(0, -libc::EAGAIN), errno(libc::EAGAIN));
    assert_eq!(rig.counters().retries, 1000);
    assert_eq!(rig.counters().failed, 1);
}

#[test]
fn what_was_moved_allows_new_tries() {
    let mut rig = Rig::new(Direct::Off);
    rig.submit(Op::Read, 2, 0);
    for _ in 0..900 {
        assert_eq!(rig.end(0, -libc::EINTR), None);
    }
    assert_eq!(rig.end(0, 512), None);
    assert_eq!(rig.active(0).done_bytes, 512);
    for _ in 0..900 {
        assert_eq!(rig.end(0, -libc::EINTR), None);
    }
    assert_eq!(rig.end(0, 2 * BLOCK as i32 - 512), Some(Ok(())));
    assert_eq!(rig.counters().failed, 0);
}

#[test]
fn errors_of_the_target_are_mapped_and_counted() {
    let mut rig = Rig::new(Direct::Off);
    let cases = [
        (libc::ENOSPC, IoError::NoSpace),
        (libc::EDQUOT, IoError::NoSpace),
        (libc::EROFS, IoError::ReadOnly),
        (libc::EFBIG, IoError::Errno(libc::EFBIG)),
        (libc::EIO, IoError::Errno(libc::EIO)),
        // A device that was unplugged.
        (libc::ENXIO, IoError::Errno(libc::ENXIO)),
        (libc::ENODEV, IoError::Errno(libc::ENODEV)),
    ];
    for (tag, (errno, error)) in (0..).zip(cases) {
        rig.submit(Op::Write, 1, tag);
        assert_eq!(rig.end(tag, -errno), Some(Err(error)), "errno {errno}");
    }
    assert_eq!((rig.counters().no_space, rig.counters().failed), (2, 5));
    // Not the target's doing: no count.
    // SAFETY: never submitted.
    let beyond = unsafe { Io::new(Op::Discard, 1 << 30, 512, &[], None, 0) };
    assert_eq!(rig.channel.submit(&beyond, &mut rig.ring), Some(Err(IoError::OutOfRange)));
    assert_eq!(rig.counters().failed, 5);
}

#[test]
fn nothing_moved_is_an_error() {
    let mut rig = Rig::new(Direct::Off);
    rig.submit(Op::Write, 1, 0);
    assert_eq!(rig.end(0, 0), errno(libc::EIO));
    rig.submit(Op::Read, 1, 0);
    assert_eq!(rig.end(0, 512), None);
    assert_eq!(rig.end(0, 0), errno(libc::ENODATA));
}

#[test]
fn a_device_that_cannot_be_polled_is_polled_no_more() {
    let mut rig = Rig::new(Direct::On);
    assert!(rig.channel.polled && rig.channel.target.polls());
    for tag in 0..3 {
        rig.submit(Op::Read, 1, tag);
    }
    rig.submit(Op::Flush, 0, 3);
    assert!((0..3).all(|tag| rig.active(tag).polled) && !rig.active(3).polled);
    assert_eq!(rig.end(0, BLOCK as i32), Some(Ok(())));
    assert_eq!(rig.counters().polled_ios, 1);
    // Both were out already when the first of them was refused.
    for (tag, errno) in [(1, libc::EOPNOTSUPP), (2, libc::EINVAL)] {
        assert_eq!(rig.end(tag, -errno), None);
        assert!(!rig.active(tag).polled && rig.active(tag).bounce.is_none());
        assert_eq!(rig.end(tag, BLOCK as i32), Some(Ok(())));
    }
    rig.submit(Op::Write, 1, 0);
    assert!(!rig.active(0).polled && !rig.channel.polled && !rig.channel.target.polls());
    assert_eq!((rig.counters().polled_ios, rig.counters().failed), (1, 0));
}

#[test]
fn vectors_that_are_refused_go_as_plain_ones() {
    for refusal in [libc::EINVAL, libc::EOPNOTSUPP] {
        let mut rig = Rig::new(Direct::Off);
        rig.submit(Op::Write, 3, 0);
        rig.submit(Op::Read, 4, 1);
        assert!(rig.active(0).used_fixed_vectors() && rig.active(1).used_fixed_vectors());
        for (tag, len_bytes) in [(0, 3 * BLOCK), (1, 4 * BLOCK)] {
            assert_eq!(rig.end(tag, -refusal), None);
            assert!(!rig.active(tag).used_fixed_vectors());
            assert_eq!(rig.end(tag, len_bytes as i32), Some(Ok(())));
        }
        // One piece goes as it went: its refusal is an error.
        rig.submit(Op::Write, 1, 0);
        assert_eq!(rig.end(0, -refusal), Some(Err(IoError::from_errno(refusal))));
    }
}

#[test]
fn memory_that_is_refused_after_all_is_bounced_once() {
    let mut rig = Rig::new(Direct::On);
    rig.channel.polled = false;
    rig.submit(Op::Write, 1, 0);
    assert_eq!(rig.end(0, -libc::EINVAL), None);
    assert!(rig.active(0).bounce.is_some());
    assert_eq!(rig.end(0, -libc::EINVAL), errno(libc::EINVAL));
    assert_eq!((rig.counters().bounced_ios, rig.counters().failed), (1, 1));
}

#[test]
fn a_disk_that_cannot_unmap_zeroes_all_the_same() {
    let mut rig = Rig::new(Direct::Off);
    rig.submit(Op::WriteZeroes { unmap: true }, 1, 0);
    assert_eq!(rig.end(0, -libc::EOPNOTSUPP), None);
    assert!(!rig.active(0).may_punch);
    assert_eq!(rig.end(0, 0), Some(Ok(())));
    for unmap in [true, false] {
        rig.submit(Op::WriteZeroes { unmap }, 1, 0);
        let went_on = rig.end(0, -libc::EOPNOTSUPP);
        let result = if unmap { rig.end(0, -libc::EOPNOTSUPP) } else { went_on };
        assert_eq!(result, Some(Err(IoError::Unsupported)), "unmap {unmap}");
    }
}
