//! One I/O as it travels down a stack, and its result on the way up.

use spinblk_reactor::BufId;

use crate::IoError;

/// The most segments that every channel takes in one I/O.
pub const MAX_SEGMENTS: usize = 144;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Device to memory.
    Read,
    /// Memory to device.
    Write,
    /// Make reported writes durable; offset, length and segments are ignored.
    Flush,
    /// Give blocks back; no segments.
    Discard,
    /// Zero blocks; no segments.
    WriteZeroes {
        /// Whether the blocks may be given back as well.
        unmap: bool,
    },
}

/// A piece of mapped memory: an iovec, so that a slice of segments goes to the kernel as it is.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Segment(libc::iovec);

impl Segment {
    /// The segment `[ptr, ptr + len_bytes)`. Naming memory is safe; [`Io::new`] is where its validity is promised.
    #[inline]
    #[must_use]
    pub fn new(ptr: *mut u8, len_bytes: usize) -> Self {
        Self(libc::iovec { iov_base: ptr.cast(), iov_len: len_bytes })
    }

    /// A segment of no bytes, to fill arrays with.
    pub const EMPTY: Self = Self(libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 });

    /// Its first byte.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// Its length in bytes.
    #[inline]
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.0.iov_len
    }

    /// Takes `count` bytes (at most all) off its front.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.0.iov_len);
        self.0.iov_base = self.0.iov_base.wrapping_byte_add(count);
        self.0.iov_len -= count;
    }

    /// Cuts it down to its first `len_bytes` bytes.
    #[inline]
    pub fn truncate(&mut self, len_bytes: usize) {
        self.0.iov_len = self.0.iov_len.min(len_bytes);
    }

    /// The same slice as the kernel wants it.
    #[inline]
    #[must_use]
    pub fn as_iovecs(segments: &[Self]) -> &[libc::iovec] {
        // SAFETY: Segment is a transparent wrapper around iovec, so layout and length are the same.
        unsafe { std::slice::from_raw_parts(segments.as_ptr().cast(), segments.len()) }
    }
}

/// Bytes in all segments together; `None` when that overflows.
#[must_use]
pub fn segments_len_bytes(segments: &[Segment]) -> Option<u64> {
    segments.iter().try_fold(0u64, |sum, s| sum.checked_add(s.len_bytes() as u64))
}

/// One I/O. Holding one means that its memory is valid: see [`Io::new`].
#[derive(Clone, Copy, Debug)]
pub struct Io {
    op: Op,
    offset_bytes: u64,
    len_bytes: u64,
    segments: *const Segment,
    segment_count: usize,
    buf: Option<BufId>,
    /// The caller's name for it, below the channel's depth; comes back in the [`Completion`].
    pub tag: u32,
}

impl Io {
    /// Describes one I/O of `len_bytes` at `offset_bytes`. For reads and writes the segments add up to `len_bytes`.
    /// `buf` names the registered buffer of *this core's ring* in which all segments lie, if there is one.
    ///
    /// # Safety
    /// Until the I/O's result is reported: the slice `segments` stays where it is and unchanged, and each segment's
    /// memory stays mapped, readable for a write and writable for a read. (Others, like a guest, may change the
    /// *contents* at any time; nothing here makes a Rust reference to them.)
    #[inline]
    #[must_use]
    pub unsafe fn new(
        op: Op,
        offset_bytes: u64,
        len_bytes: u64,
        segments: &[Segment],
        buf: Option<BufId>,
        tag: u32,
    ) -> Self {
        Self {
            op,
            offset_bytes,
            len_bytes,
            segments: segments.as_ptr(),
            segment_count: segments.len(),
            buf,
            tag,
        }
    }

    /// The same I/O at another place, for a child that holds the same blocks elsewhere.
    #[inline]
    #[must_use]
    pub fn at(self, offset_bytes: u64) -> Self {
        Self { offset_bytes, ..self }
    }

    /// What to do.
    #[inline]
    #[must_use]
    pub fn op(&self) -> Op {
        self.op
    }

    /// Where it starts on the device, in bytes.
    #[inline]
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// How long it is, in bytes.
    #[inline]
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Its memory.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        // SAFETY: `new`'s caller promised that the slice stays valid and unchanged until the result is reported.
        unsafe { std::slice::from_raw_parts(self.segments, self.segment_count) }
    }

    /// The registered buffer that holds all segments, if one does.
    #[inline]
    #[must_use]
    pub fn buf(&self) -> Option<BufId> {
        self.buf
    }
}

/// How an I/O ended.
pub type IoResult = Result<(), IoError>;

/// A finished I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The I/O's tag.
    pub tag: u32,
    /// How it ended.
    pub result: IoResult,
}
