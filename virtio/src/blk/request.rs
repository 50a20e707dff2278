//! What a translated chain asks for (section 5.2.6).
//!
//! ```text
//!   readable: [ type u32 | reserved u32 | sector u64 ] [ data of OUT, or a discard range ]
//!   writable: [ data of IN, or the id ] [ status u8 ]
//! ```
//! Any cut of this over descriptors is legal; nothing below depends on where descriptors begin and end.

use spinblk_bdev::{IoError, Op, Segment, segments_len_bytes};
use spinblk_perf::OpKind;
use spinblk_reactor::BufId;
use virtio_bindings::virtio_blk as blk;

use super::device::{SEG_MAX, SIZE_MAX_BYTES};
use crate::chain::{Chain, Cursor};

/// The unit of sectors, capacity and lengths, whatever the block size.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a serial number.
pub const SERIAL_BYTES: usize = 20;
/// Longest discard or write-zeroes range: 2 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;

/// Longest read or write: what the offered segments can hold. More would hold up the core's other queues.
pub const MAX_TRANSFER_BYTES: u64 = SEG_MAX as u64 * SIZE_MAX_BYTES as u64;

const HEADER_BYTES: usize = 16;
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

/// What to do about a chain.
pub(crate) enum Action<'a> {
    /// Hand it to the bdev.
    Io { op: Op, offset_bytes: u64, len_bytes: u64, segments: &'a [Segment], buf: Option<BufId> },
    /// Write the serial into these segments.
    GetId(&'a [Segment]),
    /// Answer at once.
    Finish(Status),
}

/// A chain understood.
pub(crate) struct Request<'a> {
    pub(crate) kind: OpKind,
    pub(crate) action: Action<'a>,
}

impl<'a> Request<'a> {
    /// Reads the header, once, and finds the data.
    #[inline]
    pub(crate) fn parse(chain: &'a mut Chain) -> Self {
        let mut cursor = Cursor::default();
        let mut header = [0; HEADER_BYTES];
        if chain.fault().is_some() || !chain.take_readable(&mut cursor, &mut header) {
            return Self { kind: OpKind::Other, action: Action::Finish(Status::IoErr) };
        }
        let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        match kind {
            blk::VIRTIO_BLK_T_IN => {
                Self { kind: OpKind::Read, action: transfer(Op::Read, sector, chain.writable_data()) }
            }
            blk::VIRTIO_BLK_T_OUT => Self {
                kind: OpKind::Write,
                action: transfer(Op::Write, sector, chain.readable_from(&cursor)),
            },
            blk::VIRTIO_BLK_T_FLUSH => {
                let action =
                    Action::Io { op: Op::Flush, offset_bytes: 0, len_bytes: 0, segments: &[], buf: None };
                Self { kind: OpKind::Flush, action }
            }
            blk::VIRTIO_BLK_T_DISCARD => Self {
                kind: OpKind::Discard,
                action: range(chain, cursor, |flags| (flags == 0).then_some(Op::Discard)),
            },
            blk::VIRTIO_BLK_T_WRITE_ZEROES => {
                let op = |flags| (flags & !UNMAP == 0).then_some(Op::WriteZeroes { unmap: flags == UNMAP });
                Self { kind: OpKind::WriteZeroes, action: range(chain, cursor, op) }
            }
            blk::VIRTIO_BLK_T_GET_ID => {
                Self { kind: OpKind::Other, action: Action::GetId(chain.writable_data().0) }
            }
            _ => Self { kind: OpKind::Other, action: Action::Finish(Status::Unsupported) },
        }
    }
}

/// A read or write of whole sectors.
#[inline]
fn transfer<'a>(op: Op, sector: u64, (segments, buf): (&'a [Segment], Option<BufId>)) -> Action<'a> {
    let (Some(offset_bytes), Some(len_bytes)) =
        (sector.checked_mul(SECTOR_BYTES), segments_len_bytes(segments))
    else {
        return Action::Finish(Status::IoErr);
    };
    if !(1..=MAX_TRANSFER_BYTES).contains(&len_bytes) || !len_bytes.is_multiple_of(SECTOR_BYTES) {
        return Action::Finish(Status::IoErr);
    }
    Action::Io { op, offset_bytes, len_bytes, segments, buf }
}

/// A discard or write-zeroes: exactly one range (one is what `config_space` allows), flags that the operation knows.
/// More ranges or unknown flags are UNSUPP (5.2.6.2), a bad length is IOERR.
fn range<'a>(chain: &mut Chain, mut cursor: Cursor, op: impl Fn(u32) -> Option<Op>) -> Action<'a> {
    let (mut bytes, mut more) = ([0; RANGE_BYTES], [0]);
    if !chain.take_readable(&mut cursor, &mut bytes) {
        return Action::Finish(Status::IoErr);
    }
    if chain.take_readable(&mut cursor, &mut more) {
        return Action::Finish(Status::Unsupported);
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let Some(op) = op(u32::from_le_bytes([f0, f1, f2, f3])) else {
        return Action::Finish(Status::Unsupported);
    };
    match sector.checked_mul(SECTOR_BYTES) {
        Some(offset_bytes) if (1..=MAX_DISCARD_SECTORS).contains(&sectors) => Action::Io {
            op,
            offset_bytes,
            len_bytes: u64::from(sectors) * SECTOR_BYTES,
            segments: &[],
            buf: None,
        },
        _ => Action::Finish(Status::IoErr),
    }
}
