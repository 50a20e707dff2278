//! A disk with no data: writes are forgotten, reads give zeroes or leave the memory as it was. It measures everything
//! above it, and is the least that a backend must do: check the I/O, answer at once.

use spinblk_reactor::Ring;

use crate::{Bdev, Capabilities, Channel, Completion, Error, Info, Io, IoResult, Op};

/// What a read from [`Null`] does to the reader's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NullReads {
    /// Nothing: no byte is touched. The reader sees what was there before.
    #[default]
    Untouched,
    /// Fills it with zeroes.
    Zeroes,
}

/// A disk that keeps nothing and supports everything.
#[derive(Debug)]
pub struct Null {
    info: Info,
    reads: NullReads,
}

impl Null {
    /// A null disk of `size_bytes` (rounded down to whole blocks).
    ///
    /// # Errors
    /// [`Error::BlockSize`], [`Error::TooSmall`].
    pub fn new(name: &str, size_bytes: u64, block_size: u32, reads: NullReads) -> Result<Self, Error> {
        let mut info = Info::new(name, size_bytes, block_size)?;
        info.caps = Capabilities { flush: true, discard: true, write_zeroes: true };
        Ok(Self { info, reads })
    }

    /// The same disk, refusing everything but reads and flushes when `read_only` is set.
    #[must_use]
    pub fn with_read_only(mut self, read_only: bool) -> Self {
        self.info.read_only = read_only;
        self
    }
}

impl Bdev for Null {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "null"
    }

    /// Takes any size; there is nothing to look at anew.
    fn resize(&self, size_bytes: Option<u64>) -> Result<u64, Error> {
        let size_bytes = size_bytes.unwrap_or(self.info.size_bytes());
        self.info.check_wanted_size(size_bytes)?;
        self.info.grow_with(size_bytes)
    }

    fn open(&self, _ring: &mut Ring, _depth: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(NullChannel { info: self.info.clone(), reads: self.reads }))
    }
}

struct NullChannel {
    info: Info,
    reads: NullReads,
}

impl Channel for NullChannel {
    fn submit(&mut self, io: &Io, _ring: &mut Ring) -> Option<IoResult> {
        let checked = self.info.check(io);
        if self.reads == NullReads::Zeroes && checked.is_ok() && io.op() == Op::Read {
            zero(io);
        }
        Some(checked)
    }

    fn poll(&mut self, _ring: &mut Ring, _done: &mut Vec<Completion>) {}

    fn close(&mut self, _ring: &mut Ring) {}
}

/// Fills the memory of a read.
#[inline(never)]
fn zero(io: &Io) {
    for segment in io.segments() {
        // SAFETY: `Io::new`'s caller promised that each segment of a read is mapped and writable until the result is
        // reported, which is after this. No reference is made: a guest may look on.
        unsafe { segment.as_ptr().write_bytes(0, segment.len_bytes()) };
    }
}
