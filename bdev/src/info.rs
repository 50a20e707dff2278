//! What a block device says of itself, and the check of an I/O against it.

use crate::{Error, Io, IoError, Op, Size, segments_len_bytes};

/// Operations beyond read and write that a device really supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Writes may sit in a volatile cache and flush makes them durable.
    pub flush: bool,
    /// Blocks can be given back.
    pub discard: bool,
    /// Blocks can be zeroed without sending zeroes.
    pub write_zeroes: bool,
}

/// A device's description; all but its size is fixed for its life. A clone goes on describing the same device: it has its
/// size, also when that grows.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its name in configuration and messages.
    pub name: String,
    /// Logical block size in bytes: a power of two from 512 to 4096. Offsets and lengths are multiples of it.
    pub block_size: u32,
    /// Block size below which a write costs a read-modify-write; a multiple of `block_size`.
    pub physical_block_size: u32,
    /// Its size, in whole logical blocks.
    pub size: Size,
    /// Refuses everything but reads and flushes.
    pub read_only: bool,
    /// What else it can do.
    pub caps: Capabilities,
}

impl Info {
    /// A description with checked block size and size; capabilities and flags start out false.
    ///
    /// # Errors
    /// [`Error::BlockSize`], [`Error::TooSmall`].
    pub fn new(name: &str, size_bytes: u64, block_size: u32) -> Result<Self, Error> {
        if !block_size.is_power_of_two() || !(512..=4096).contains(&block_size) {
            return Err(Error::BlockSize { name: name.into(), block_size });
        }
        let blocks = size_bytes / u64::from(block_size);
        if blocks == 0 {
            return Err(Error::TooSmall { name: name.into(), size_bytes, block_size });
        }
        Ok(Self {
            name: name.into(),
            block_size,
            physical_block_size: block_size,
            size: Size::new(blocks * u64::from(block_size)),
            read_only: false,
            caps: Capabilities::default(),
        })
    }

    /// Size in bytes, at this moment.
    #[inline]
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size.bytes()
    }

    /// Size in logical blocks, at this moment.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size_bytes() / u64::from(self.block_size)
    }

    /// Checks an I/O: range, alignment, permission, capability, and that the segments of a read or write add up to
    /// its length, so that a backend that walks them stays within both. A flush always passes: where there is no volatile
    /// cache it is done at once.
    ///
    /// # Errors
    /// The [`IoError`] to answer with.
    #[inline]
    pub fn check(&self, io: &Io) -> Result<(), IoError> {
        // By itself, because most I/Os are reads and this is their whole check.
        if matches!(io.op(), Op::Read) { self.check_range(io, true) } else { self.check_other(io) }
    }

    #[inline]
    fn check_range(&self, io: &Io, moves_data: bool) -> Result<(), IoError> {
        let mask = u64::from(self.block_size) - 1;
        if (io.offset_bytes() | io.len_bytes()) & mask != 0 {
            return Err(IoError::Misaligned);
        }
        match io.offset_bytes().checked_add(io.len_bytes()) {
            Some(end) if end <= self.size_bytes() => {}
            _ => return Err(IoError::OutOfRange),
        }
        let fits = match io.segments() {
            _ if !moves_data => true,
            [one] => one.len_bytes() as u64 == io.len_bytes(),
            segments => segments_len_bytes(segments) == Some(io.len_bytes()),
        };
        if fits { Ok(()) } else { Err(IoError::Misaligned) }
    }

    #[inline(never)]
    fn check_other(&self, io: &Io) -> Result<(), IoError> {
        if io.op() == Op::Flush {
            return Ok(());
        }
        self.check_permission(io.op())?;
        self.check_range(io, io.op() == Op::Write)
    }

    /// Whether an operation that changes the device may do so.
    fn check_permission(&self, op: Op) -> Result<(), IoError> {
        match op {
            _ if self.read_only => Err(IoError::ReadOnly),
            Op::Discard if !self.caps.discard => Err(IoError::Unsupported),
            Op::WriteZeroes { .. } if !self.caps.write_zeroes => Err(IoError::Unsupported),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Segment;

    fn io(op: Op, offset: u64, len: u64) -> Io {
        let segment = [Segment::new(std::ptr::null_mut(), usize::try_from(len).unwrap())];
        // SAFETY: only the numbers are looked at; no memory is touched. The leak keeps the segment where it is.
        unsafe { Io::new(op, offset, len, Box::leak(Box::new(segment)), None, 0) }
    }

    #[test]
    fn checks_range_alignment_permission_and_capability() {
        let mut info = Info::new("t", 10 * 512 + 100, 512).unwrap();
        assert_eq!(info.blocks(), 10);
        assert_eq!(info.check(&io(Op::Read, 0, 5120)), Ok(()));
        assert_eq!(info.check(&io(Op::Read, 512, 5120)), Err(IoError::OutOfRange));
        assert_eq!(info.check(&io(Op::Read, u64::MAX - 511, 1024)), Err(IoError::OutOfRange));
        assert_eq!(info.check(&io(Op::Write, 1, 512)), Err(IoError::Misaligned));
        assert_eq!(info.check(&io(Op::Write, 0, 511)), Err(IoError::Misaligned));
        assert_eq!(info.check(&io(Op::Discard, 0, 512)), Err(IoError::Unsupported));
        assert_eq!(info.check(&io(Op::WriteZeroes { unmap: true }, 0, 512)), Err(IoError::Unsupported));
        // SAFETY: as in `io`.
        let no_memory = unsafe { Io::new(Op::Read, 0, 512, &[], None, 0) };
        assert_eq!(info.check(&no_memory), Err(IoError::Misaligned));
        info.read_only = true;
        assert_eq!(info.check(&io(Op::Write, 0, 512)), Err(IoError::ReadOnly));
        assert_eq!(info.check(&io(Op::Flush, 7, 0)), Ok(()));
    }

    #[test]
    fn refuses_sizes_that_make_no_device() {
        assert!(matches!(Info::new("t", 511, 512), Err(Error::TooSmall { .. })));
        for bad in [0, 1, 256, 520, 8192] {
            assert!(matches!(Info::new("t", 1 << 20, bad), Err(Error::BlockSize { .. })), "{bad}");
        }
    }
}
