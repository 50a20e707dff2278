//! The next operation of a read or write: the whole of it at first, and what is left after a short transfer.
//!
//! Continuing needs no memory of its own: a rest that starts at a segment's first byte goes to the kernel as the tail
//! of the caller's own segments; one that starts inside a segment finishes that segment alone.

use spinblk_reactor::{RingFile, on_file, opcode, squeue};

use super::probe::Alignment;
use crate::{Io, Op, Segment};

/// The most that one operation moves (the kernel's MAX_RW_COUNT); a multiple of every alignment.
const MAX_TRANSFER_BYTES: usize = 0x7fff_f000;
/// The most segments that one operation takes (UIO_MAXIOV).
const MAX_SEGMENTS: usize = 1024;

/// Whether each segment meets what O_DIRECT asks for. (The offset and length meet it: they are whole blocks.)
#[inline]
pub(super) fn aligned(segments: &[Segment], align: Alignment) -> bool {
    let (mem_mask, io_mask) = (align.mem_bytes as usize - 1, align.io_bytes as usize - 1);
    segments.iter().all(|s| s.as_ptr().addr() & mem_mask == 0 && s.len_bytes() & io_mask == 0)
}

/// Where byte `done_bytes` of a transfer lies: the segment, and the byte in it. Empty segments are passed over.
#[inline]
fn locate(segments: &[Segment], done_bytes: u64) -> (usize, usize) {
    let mut rest = done_bytes;
    for (index, segment) in segments.iter().enumerate() {
        let len_bytes = segment.len_bytes() as u64;
        if rest < len_bytes {
            return (index, rest as usize);
        }
        rest -= len_bytes;
    }
    (segments.len(), 0)
}

/// Calls `each(memory, len)` for the pieces that hold bytes `done_bytes .. done_bytes + len_bytes` of the transfer.
pub(super) fn for_each_piece(
    segments: &[Segment],
    done_bytes: u64,
    len_bytes: usize,
    mut each: impl FnMut(*mut u8, usize),
) {
    let (first, mut within) = locate(segments, done_bytes);
    let mut left = len_bytes;
    for segment in segments.iter().skip(first) {
        if left == 0 {
            return;
        }
        let count = (segment.len_bytes() - within).min(left);
        each(segment.as_ptr().wrapping_add(within), count);
        left -= count;
        within = 0;
    }
}

/// Whether the transfer starts out in a registered buffer: as one piece, or as several where the kernel has operations
/// for that.
#[inline]
pub(super) fn uses_fixed_buffer(io: &Io, fixed_vectors: bool) -> bool {
    io.buf().is_some() && (io.segments().len() == 1 || fixed_vectors && none_empty(io.segments()))
}

/// The kernel takes no empty pieces in a registered buffer.
#[inline]
fn none_empty(segments: &[Segment]) -> bool {
    segments.iter().all(|segment| segment.len_bytes() > 0)
}

/// The operation for what is left of `io` after `done_bytes`, which are fewer than its length. `fixed_vectors`: whether
/// READV_FIXED and WRITEV_FIXED (Linux 6.15) may be used.
#[inline]
pub(super) fn operation(io: &Io, done_bytes: u64, file: RingFile, fixed_vectors: bool) -> squeue::Entry {
    let offset = io.offset_bytes() + done_bytes;
    let segments = io.segments();
    let (first, within) = locate(segments, done_bytes);
    let tail = &segments[first..];
    if within == 0 && tail.len() > 1 {
        let iovecs = Segment::as_iovecs(&tail[..tail.len().min(MAX_SEGMENTS)]);
        let (ptr, count) = (iovecs.as_ptr(), iovecs.len() as u32);
        return match (io.op(), io.buf().filter(|_| fixed_vectors && none_empty(tail))) {
            (Op::Read, None) => on_file!(file, |f| opcode::Readv::new(f, ptr, count).offset(offset).build()),
            (_, None) => on_file!(file, |f| opcode::Writev::new(f, ptr, count).offset(offset).build()),
            (Op::Read, Some(buf)) => {
                on_file!(file, |f| opcode::ReadvFixed::new(f, ptr, count, buf.0).offset(offset).build())
            }
            (_, Some(buf)) => {
                on_file!(file, |f| opcode::WritevFixed::new(f, ptr, count, buf.0).offset(offset).build())
            }
        };
    }
    let segment = tail.first().copied().unwrap_or(Segment::EMPTY);
    let ptr = segment.as_ptr().wrapping_add(within);
    let len = (segment.len_bytes() - within).min(MAX_TRANSFER_BYTES) as u32;
    match (io.op(), io.buf()) {
        (Op::Read, Some(buf)) => {
            on_file!(file, |f| opcode::ReadFixed::new(f, ptr, len, buf.0).offset(offset).build())
        }
        (_, Some(buf)) => {
            on_file!(file, |f| opcode::WriteFixed::new(f, ptr, len, buf.0).offset(offset).build())
        }
        (op, None) => piece(op, ptr, len, offset, file),
    }
}

/// A read or write of one piece of memory that lies in no registered buffer.
pub(super) fn piece(op: Op, ptr: *mut u8, len: u32, offset: u64, file: RingFile) -> squeue::Entry {
    match op {
        Op::Read => on_file!(file, |f| opcode::Read::new(f, ptr, len).offset(offset).build()),
        _ => on_file!(file, |f| opcode::Write::new(f, ptr, len).offset(offset).build()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(lens: &[usize]) -> Vec<Segment> {
        let mut start = 0x1_0000;
        let at = |len: &usize| {
            let segment = Segment::new(std::ptr::without_provenance_mut(start), *len);
            start += 0x1000;
            segment
        };
        lens.iter().map(at).collect()
    }

    #[test]
    fn a_rest_is_found_in_the_segments() {
        let segments = segments(&[0, 512, 0, 1024, 0]);
        assert_eq!(locate(&segments, 0), (1, 0));
        assert_eq!(locate(&segments, 511), (1, 511));
        assert_eq!(locate(&segments, 512), (3, 0));
        assert_eq!(locate(&segments, 1535), (3, 1023));
        assert_eq!(locate(&segments, 1536), (5, 0));
    }

    #[test]
    fn pieces_cover_exactly_what_was_asked_for() {
        let segments = segments(&[512, 0, 100, 924]);
        let mut pieces = Vec::new();
        for_each_piece(&segments, 500, 200, |ptr, len| pieces.push((ptr.addr(), len)));
        pieces.retain(|piece| piece.1 > 0);
        assert_eq!(pieces, [(0x1_0000 + 500, 12), (0x1_2000, 100), (0x1_3000, 88)]);
    }

    #[test]
    fn several_pieces_in_a_registered_buffer_go_fixed_where_the_kernel_can() {
        let (many, one) = (segments(&[512, 512, 512]), segments(&[1536]));
        let code = |op, segments: &[Segment], buf, done_bytes, fixed_vectors| {
            // SAFETY: no memory is touched; the operation is never submitted.
            let io = unsafe { Io::new(op, 0, 1536, segments, buf, 0) };
            let entry = operation(&io, done_bytes, RingFile::Plain(0), fixed_vectors);
            let text = format!("{entry:?}");
            let code = text.split("op_code: ").nth(1).and_then(|rest| rest.split(',').next());
            code.and_then(|code| code.trim().parse::<u8>().ok()).unwrap()
        };
        let buf = Some(spinblk_reactor::BufId(3));
        assert_eq!(code(Op::Read, &many, buf, 0, true), opcode::ReadvFixed::CODE);
        assert_eq!(code(Op::Write, &many, buf, 0, true), opcode::WritevFixed::CODE);
        assert_eq!(code(Op::Read, &many, buf, 512, true), opcode::ReadvFixed::CODE);
        // An older kernel, no common buffer, a rest inside a segment, one segment.
        assert_eq!(code(Op::Read, &many, buf, 0, false), opcode::Readv::CODE);
        assert_eq!(code(Op::Write, &many, None, 0, true), opcode::Writev::CODE);
        assert_eq!(code(Op::Read, &many, buf, 700, true), opcode::ReadFixed::CODE);
        assert_eq!(code(Op::Write, &one, buf, 0, true), opcode::WriteFixed::CODE);
    }

    #[test]
    fn alignment_asks_for_address_and_length() {
        let align = Alignment { mem_bytes: 4, io_bytes: 512 };
        assert!(aligned(&segments(&[512, 1024]), align));
        assert!(!aligned(&segments(&[512, 100]), align));
        let odd = [Segment::new(std::ptr::without_provenance_mut(0x1002), 512)];
        assert!(!aligned(&odd, align));
    }
}
