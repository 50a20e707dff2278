//! The road of nearly all requests: a read or write of one buffer, as three descriptors (header, data, status), each in one
//! mapping. It is understood from the descriptors alone, without filling in a chain. Whatever is not
//! exactly so, be it only unusual or be it wrong, goes through [`Chain`](crate::chain::Chain) instead, which decides.

use spinblk_bdev::{Op, Segment};
use spinblk_perf::OpKind;
use spinblk_reactor::BufId;
use virtio_bindings::virtio_blk as blk;

use super::account::What;
use super::request::transfer_offset;
use crate::chain::{Buffer, HEADER_BYTES, Header};
use crate::memory::CoreMemory;

/// A read or write.
#[derive(Clone, Copy)]
pub(super) struct Usual {
    pub(super) op: Op,
    pub(super) offset_bytes: u64,
    pub(super) data: Segment,
    pub(super) buf: Option<BufId>,
    pub(super) status: *mut u8,
}

impl Usual {
    /// What it is, for the books.
    #[inline(always)]
    pub(super) fn what(&self) -> What {
        let kind = if self.op == Op::Read { OpKind::Read } else { OpKind::Write };
        What { kind, bytes: self.data.len_bytes() as u64, offset_bytes: self.offset_bytes }
    }

    /// Reads the header, once; `None` when the request is not of this kind.
    #[inline(always)]
    pub(super) fn read(memory: &mut CoreMemory, [header, data, status]: [Buffer; 3]) -> Option<Self> {
        let len = u64::from(data.len_bytes);
        if header.len_bytes as usize != HEADER_BYTES || status.len_bytes != 1 {
            return None;
        }
        let at = memory.locate_parts(header.iova, data.iova, len, status.iova)?;
        let words: *const u64 = at.header.cast();
        if !words.addr().is_multiple_of(8) {
            return None;
        }
        // SAFETY: `locate_parts` found 16 bytes mapped there, and they are aligned. Each word is read once: the guest may write
        // at the same time.
        let header = Header::from_words(unsafe { [words.read_volatile(), words.add(1).read_volatile()] });
        let op = match (header.kind, data.writable) {
            (blk::VIRTIO_BLK_T_IN, true) => Op::Read,
            (blk::VIRTIO_BLK_T_OUT, false) => Op::Write,
            _ => return None,
        };
        Some(Self {
            op,
            offset_bytes: transfer_offset(header.sector, len)?,
            data: Segment::new(at.data, data.len_bytes as usize),
            buf: at.buf.buf(),
            status: at.status,
        })
    }
}
