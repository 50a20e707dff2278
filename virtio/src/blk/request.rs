//! What a translated chain asks for (section 5.2.6).
//!
//! ```text
//!   readable: [ type u32 | reserved u32 | sector u64 ] [ data of OUT, or a discard range ]
//!   writable: [ data of IN, or the id ] [ status u8 ]
//! ```
//! The chain has taken the header and the status off already; any cut over descriptors is legal.

use spinblk_bdev::{IoError, Op, Segment};
use spinblk_perf::OpKind;
use spinblk_reactor::BufId;
use virtio_bindings::virtio_blk as blk;

use super::device::{SEG_MAX, SIZE_MAX_BYTES};
use crate::chain::Chain;

/// The unit of sectors, capacity and lengths, whatever the block size.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a serial number.
pub const SERIAL_BYTES: usize = 20;
/// Longest discard or write-zeroes range: 2 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;

/// Longest read or write: what the offered segments can hold. More would hold up the core's other queues.
pub const MAX_TRANSFER_BYTES: u64 = SEG_MAX as u64 * SIZE_MAX_BYTES as u64;

const RANGE_BYTES: usize = 16;
const UNMAP: u32 = blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

/// The status byte of a request (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = blk::VIRTIO_BLK_S_OK as u8,
    IoErr = blk::VIRTIO_BLK_S_IOERR as u8,
    Unsupported = blk::VIRTIO_BLK_S_UNSUPP as u8,
}

impl From<IoError> for Status {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Unsupported => Self::Unsupported,
            _ => Self::IoErr,
        }
    }
}

/// Where a read or write of whole sectors begins, in bytes; `None` when it is longer than any may be, empty, not of whole
/// sectors, or begins beyond all devices.
#[inline]
pub(crate) fn transfer_offset(sector: u64, len_bytes: u64) -> Option<u64> {
    let fits = (1..=MAX_TRANSFER_BYTES).contains(&len_bytes) && len_bytes.is_multiple_of(SECTOR_BYTES);
    if fits { sector.checked_mul(SECTOR_BYTES) } else { None }
}

/// What to do about a request.
pub(crate) enum Action<'a> {
    /// Hand it to the bdev.
    Io { op: Op, offset_bytes: u64, len_bytes: u64, segments: &'a [Segment], buf: Option<BufId> },
    /// Write the serial into these segments.
    GetId(&'a [Segment]),
    /// Answer at once.
    Refuse(IoError),
}

/// Understands a request of any kind.
pub(crate) fn parse(kind: u32, sector: u64, chain: &Chain) -> (OpKind, Action<'_>) {
    match kind {
        blk::VIRTIO_BLK_T_IN => {
            (OpKind::Read, transfer(Op::Read, sector, chain.writable_bytes(), chain.writable()))
        }
        blk::VIRTIO_BLK_T_OUT => {
            (OpKind::Write, transfer(Op::Write, sector, chain.readable_bytes(), chain.readable()))
        }
        blk::VIRTIO_BLK_T_FLUSH => {
            let action =
                Action::Io { op: Op::Flush, offset_bytes: 0, len_bytes: 0, segments: &[], buf: None };
            (OpKind::Flush, action)
        }
        blk::VIRTIO_BLK_T_DISCARD => {
            (OpKind::Discard, range(chain, |flags| (flags == 0).then_some(Op::Discard)))
        }
        blk::VIRTIO_BLK_T_WRITE_ZEROES => {
            let op = |flags| (flags & !UNMAP == 0).then_some(Op::WriteZeroes { unmap: flags == UNMAP });
            (OpKind::WriteZeroes, range(chain, op))
        }
        blk::VIRTIO_BLK_T_GET_ID => (OpKind::Other, Action::GetId(chain.writable().0)),
        _ => (OpKind::Other, Action::Refuse(IoError::Unsupported)),
    }
}

fn transfer(op: Op, sector: u64, len_bytes: u64, (segments, buf): (&[Segment], Option<BufId>)) -> Action<'_> {
    match transfer_offset(sector, len_bytes) {
        Some(offset_bytes) => Action::Io { op, offset_bytes, len_bytes, segments, buf },
        None => Action::Refuse(IoError::Misaligned),
    }
}

/// A discard or write-zeroes: exactly one range (one is what `config_space` allows), flags that the operation knows.
/// More ranges or unknown flags are UNSUPP (5.2.6.2), a bad length is IOERR.
fn range<'a>(chain: &Chain, op: impl Fn(u32) -> Option<Op>) -> Action<'a> {
    let mut bytes = [0; RANGE_BYTES];
    if chain.copy_readable(&mut bytes) < RANGE_BYTES {
        return Action::Refuse(IoError::Misaligned);
    }
    if chain.readable_bytes() > RANGE_BYTES as u64 {
        return Action::Refuse(IoError::Unsupported);
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let Some(op) = op(u32::from_le_bytes([f0, f1, f2, f3])) else {
        return Action::Refuse(IoError::Unsupported);
    };
    match sector.checked_mul(SECTOR_BYTES) {
        Some(offset_bytes) if (1..=MAX_DISCARD_SECTORS).contains(&sectors) => Action::Io {
            op,
            offset_bytes,
            len_bytes: u64::from(sectors) * SECTOR_BYTES,
            segments: &[],
            buf: None,
        },
        _ => Action::Refuse(IoError::Misaligned),
    }
}
