//! One I/O of a test, and where in a tag's memory it lies.

use spinblk_bdev::Op;

/// One I/O of a test. Its memory is pieces of `lens` bytes, from `skew` bytes into the tag's arena, `gap` bytes apart:
///
/// ```text
///   arena ├─ skew ─┤ lens[0] ├ gap ┤ lens[1] ├ gap ┤ lens[2] │
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
    pub(crate) lens: Vec<usize>,
    pub(crate) skew: usize,
    pub(crate) gap: usize,
    pub(crate) fixed: bool,
}

impl Request {
    pub(crate) fn new(op: Op, offset_bytes: u64, len_bytes: usize) -> Self {
        let lens = if matches!(op, Op::Read | Op::Write) { vec![len_bytes] } else { vec![] };
        Self { op, offset_bytes, len_bytes: len_bytes as u64, lens, skew: 0, gap: 0, fixed: false }
    }

    /// Bytes in all its pieces.
    pub(crate) fn memory_len_bytes(&self) -> usize {
        self.lens.iter().sum()
    }

    /// Bytes of the arena from the first piece's first to the last piece's last.
    pub(crate) fn span_bytes(&self) -> usize {
        self.memory_len_bytes() + self.gap * self.lens.len().saturating_sub(1)
    }

    /// Each piece: where it starts in the arena, and its length.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut start = self.skew;
        self.lens.iter().map(move |&len_bytes| {
            let piece = (start, len_bytes);
            start += len_bytes + self.gap;
            piece
        })
    }
}
