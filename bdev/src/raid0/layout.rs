//! Where each byte of a striped device lies: the arithmetic alone, in bytes.
//!
//! ```text
//!   child 0   | 0 | 2 | 4 | 6 |                    zone 0: chunks go round all children,
//!   child 1   | 1 | 3 | 5 | 7 | 8 | 9 | 10|        zone 1: then round those that are longer
//! ```
//! This is what Linux md calls raid0 with the "alternate multi-zone" layout (`raid0.default_layout=2`, what mdadm creates
//! and all kernels from 3.14 on write): a zone ends where its shortest child does, each child's size is first rounded
//! down to whole chunks, and in each zone the first chunk is on the zone's first child.
//!
//! Within a child, the zones follow each other without a gap, and so any range of the device is *one* range of each
//! child ([`Layout::on_child`]), however many chunks it has.

/// Children go round in this part of the device.
#[derive(Debug, PartialEq)]
struct Zone {
    /// Where it starts and ends on the device.
    start: u64,
    end: u64,
    /// Where it starts on each of its children.
    child_start: u64,
    /// Its children in their order.
    children: Vec<usize>,
}

/// The layout of one device.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    chunk_shift: u32,
    /// One or more; the first starts at 0 and has all children.
    zones: Vec<Zone>,
}

/// A run of bytes in one chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Piece {
    /// Where it starts on the device.
    pub(super) start: u64,
    /// How long it is.
    pub(super) len_bytes: u64,
}

impl Layout {
    /// The layout over children of these sizes, one or more, each of a chunk at least. `chunk_bytes` is a power of two.
    pub(super) fn new(chunk_bytes: u64, child_sizes: &[u64]) -> Self {
        let usable: Vec<u64> = child_sizes.iter().map(|size| size / chunk_bytes * chunk_bytes).collect();
        let mut zones = Vec::new();
        let (mut start, mut child_start) = (0, 0);
        loop {
            let children: Vec<usize> =
                (0..usable.len()).filter(|&child| usable[child] > child_start).collect();
            let Some(child_end) = children.iter().map(|&child| usable[child]).min() else { break };
            let end = start + (child_end - child_start) * children.len() as u64;
            zones.push(Zone { start, end, child_start, children });
            (start, child_start) = (end, child_end);
        }
        Self { chunk_shift: chunk_bytes.trailing_zeros(), zones }
    }

    /// The device's size.
    pub(super) fn size_bytes(&self) -> u64 {
        self.zones.last().map_or(0, |zone| zone.end)
    }

    /// The child and the place on it, if `[offset, offset + len)`, not empty and within the device, lies in one chunk.
    #[inline]
    pub(super) fn in_one_chunk(&self, offset: u64, len_bytes: u64) -> Option<(usize, u64)> {
        let within = offset & (self.chunk_bytes() - 1);
        if within + len_bytes > self.chunk_bytes() {
            return None;
        }
        let zone = self.zone_at(offset);
        // Nearly always in reach of the short division.
        let chunk = (offset - zone.start) >> self.chunk_shift;
        let count = zone.children.len() as u64;
        let (row, column) = match (u32::try_from(chunk), count as u32) {
            (Ok(chunk), count) => (u64::from(chunk / count), u64::from(chunk % count)),
            _ => (chunk / count, chunk % count),
        };
        Some((zone.children[column as usize], zone.child_start + (row << self.chunk_shift) + within))
    }

    /// How many of the device's first `offset` bytes lie on `child`; and so the range `[start, end)` of the device is the
    /// range from `on_child(child, start)` to `on_child(child, end)` of each child.
    pub(super) fn on_child(&self, child: usize, offset: u64) -> u64 {
        let mut bytes = 0;
        for zone in self.zones.iter().take_while(|zone| zone.start < offset) {
            // Children of a zone are children of all before it.
            let Some(column) = zone.children.iter().position(|&other| other == child) else { break };
            let offset = offset.min(zone.end) - zone.start;
            let row_bytes = (zone.children.len() as u64) << self.chunk_shift;
            let (rows, rest) = (offset / row_bytes, offset % row_bytes);
            let before_it = (column as u64) << self.chunk_shift;
            bytes = zone.child_start
                + (rows << self.chunk_shift)
                + rest.saturating_sub(before_it).min(self.chunk_bytes());
        }
        bytes
    }

    /// The first piece of `child` in the range `[from, end)` of the device.
    pub(super) fn next_piece(&self, child: usize, from: u64, end: u64) -> Option<Piece> {
        for zone in self.zones.iter().skip_while(|zone| zone.end <= from) {
            let column = zone.children.iter().position(|&other| other == child)? as u64;
            let within = from.max(zone.start) - zone.start;
            let (chunk, count) = (within >> self.chunk_shift, zone.children.len() as u64);
            let ahead = (column + count - chunk % count) % count;
            let own = chunk + ahead;
            let start = zone.start + if ahead == 0 { within } else { own << self.chunk_shift };
            if start < zone.end {
                let stop = end.min(zone.start + ((own + 1) << self.chunk_shift));
                return (start < stop).then(|| Piece { start, len_bytes: stop - start });
            }
        }
        None
    }

    #[inline]
    fn chunk_bytes(&self) -> u64 {
        1 << self.chunk_shift
    }

    /// The zone that holds a byte of the device.
    #[inline]
    fn zone_at(&self, offset: u64) -> &Zone {
        match &self.zones[..] {
            [one] => one,
            zones => &zones[zones.partition_point(|zone| zone.end <= offset).min(zones.len() - 1)],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The layout as a table, laid chunk by chunk: for each chunk its child and the chunk's number there.
    fn table(chunk: u64, sizes: &[u64]) -> Vec<(usize, u64)> {
        let chunks: Vec<u64> = sizes.iter().map(|size| size / chunk).collect();
        let mut table = Vec::new();
        for row in 0..chunks.iter().copied().max().unwrap_or(0) {
            table.extend((0..sizes.len()).filter(|&child| row < chunks[child]).map(|child| (child, row)));
        }
        table
    }

    #[test]
    fn the_picture_above() {
        let layout = Layout::new(4096, &[4 * 4096 + 4095, 7 * 4096]);
        assert_eq!(layout.size_bytes(), 11 * 4096);
        let places: Vec<_> = (0..11).map(|chunk| layout.in_one_chunk(chunk * 4096, 4096).unwrap()).collect();
        let on = |child, chunk: u64| (child, chunk * 4096);
        assert_eq!(places[..8], [0, 1, 2, 3, 4, 5, 6, 7].map(|chunk| on(chunk as usize % 2, chunk / 2)));
        assert_eq!(places[8..], [on(1, 4), on(1, 5), on(1, 6)]);
        assert_eq!(layout.in_one_chunk(4095, 2), None);
        assert_eq!(layout.in_one_chunk(4096 + 512, 1024), Some((1, 512)));
    }

    #[test]
    fn far_beyond_four_billion_chunks() {
        let layout = Layout::new(4096, &[1 << 60, 1 << 60, 1 << 60]);
        let offset = (1u64 << 61) + 4096 * 5;
        let (child, at) = layout.in_one_chunk(offset, 512).unwrap();
        assert_eq!((at >> 12) * 3 + child as u64, offset >> 12);
        assert_eq!(layout.on_child(child, offset), at);
    }

    proptest! {
        #[test]
        fn all_answers_agree_with_the_table(
            shift in 9u32..13,
            sizes in prop::collection::vec(1u64..9, 1..6),
            odd in 0u64..512,
            from in 0u64..40_000, len in 1u64..40_000,
        ) {
            let chunk = 1u64 << shift;
            let sizes: Vec<u64> = sizes.iter().map(|chunks| chunks * chunk + odd).collect();
            let (layout, table) = (Layout::new(chunk, &sizes), table(chunk, &sizes));
            prop_assert_eq!(layout.size_bytes(), table.len() as u64 * chunk);
            for (index, &(child, row)) in table.iter().enumerate() {
                let at = index as u64 * chunk;
                prop_assert_eq!(layout.in_one_chunk(at + 7, chunk - 7), Some((child, row * chunk + 7)));
                for child in 0..sizes.len() {
                    let before = table[..index].iter().filter(|place| place.0 == child).count() as u64;
                    let inside = if table[index].0 == child { 7 } else { 0 };
                    prop_assert_eq!(layout.on_child(child, at + 7), before * chunk + inside);
                }
            }
            let from = from % layout.size_bytes();
            let end = (from + len).min(layout.size_bytes());
            for child in 0..sizes.len() {
                let (mut at, mut bytes) = (from, 0);
                while let Some(piece) = layout.next_piece(child, at, end) {
                    prop_assert!(piece.start >= at && piece.start + piece.len_bytes <= end && piece.len_bytes > 0);
                    let place = layout.in_one_chunk(piece.start, piece.len_bytes);
                    prop_assert_eq!(place, Some((child, layout.on_child(child, from) + bytes)));
                    (at, bytes) = (piece.start + piece.len_bytes, bytes + piece.len_bytes);
                }
                prop_assert_eq!(bytes, layout.on_child(child, end) - layout.on_child(child, from));
            }
        }
    }
}
