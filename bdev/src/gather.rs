//! Parts of an I/O's memory as segment lists of their own, for a layer that splits: no byte is copied, the lists name the
//! same memory.
//!
//! ```text
//!   segments   [-------][---][------------]        a cursor walks them once, forward
//!   pieces        skip ─┤take├─ skip ─┤take├─►     each take goes into a list whole or not at all
//! ```

use crate::Segment;

/// A place in a segment list. Empty segments are passed over.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    /// What lies ahead; the first one from byte `within` on.
    ahead: &'a [Segment],
    within: usize,
}

impl<'a> Cursor<'a> {
    /// The place of byte 0.
    pub(crate) fn new(segments: &'a [Segment]) -> Self {
        Self { ahead: segments, within: 0 }
    }

    /// Goes `count` bytes on; at the list's end it stays there.
    pub(crate) fn skip(&mut self, count: u64) {
        let mut left = count;
        while left > 0 && self.next_part(&mut left).is_some() {}
    }

    /// Appends the next `count` bytes to `list` and goes past them. When `list` has no room for all, neither changes.
    pub(crate) fn take(&mut self, count: u64, list: &mut List<'_>) -> bool {
        let (mut ahead, had) = (*self, list.len);
        let mut left = count;
        while left > 0 {
            let Some(part) = ahead.next_part(&mut left) else { break };
            if !list.push(part) {
                list.len = had;
                return false;
            }
        }
        *self = ahead;
        true
    }

    /// What is left of the next segment, at most `left` bytes, which are taken off `left`.
    fn next_part(&mut self, left: &mut u64) -> Option<Segment> {
        loop {
            let (first, rest) = self.ahead.split_first()?;
            let mut part = *first;
            part.advance(self.within);
            if part.len_bytes() as u64 > *left {
                part.truncate(*left as usize);
                self.within += part.len_bytes();
            } else {
                (self.ahead, self.within) = (rest, 0);
            }
            if part.len_bytes() > 0 {
                *left -= part.len_bytes() as u64;
                return Some(part);
            }
        }
    }
}

/// A segment list being made in memory of fixed length.
pub(crate) struct List<'a> {
    room: &'a mut [Segment],
    len: usize,
}

impl<'a> List<'a> {
    /// An empty list with room for as many segments as `room` has.
    pub(crate) fn new(room: &'a mut [Segment]) -> Self {
        Self { room, len: 0 }
    }

    /// What was put into it.
    pub(crate) fn as_slice(&self) -> &[Segment] {
        &self.room[..self.len]
    }

    fn push(&mut self, segment: Segment) -> bool {
        let Some(place) = self.room.get_mut(self.len) else { return false };
        *place = segment;
        self.len += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(parts: &[(usize, usize)]) -> Vec<Segment> {
        parts.iter().map(|&(at, len)| Segment::new(std::ptr::without_provenance_mut(at), len)).collect()
    }

    fn parts(list: &List<'_>) -> Vec<(usize, usize)> {
        list.as_slice().iter().map(|part| (part.as_ptr().addr(), part.len_bytes())).collect()
    }

    #[test]
    fn takes_what_lies_between_skips() {
        let segments = segments(&[(1000, 0), (1000, 100), (2000, 50), (3000, 0), (3000, 100), (4000, 0)]);
        let mut room = [Segment::EMPTY; 8];
        let mut list = List::new(&mut room);
        let mut cursor = Cursor::new(&segments);
        cursor.skip(90);
        assert!(cursor.take(20, &mut list));
        assert!(cursor.take(0, &mut list));
        cursor.skip(60);
        assert!(cursor.take(80, &mut list));
        assert_eq!(parts(&list), [(1090, 10), (2000, 10), (3020, 80)]);
        cursor.skip(1);
        assert!(cursor.take(0, &mut list));
        assert_eq!(parts(&list).len(), 3);
    }

    #[test]
    fn a_full_list_changes_nothing() {
        let segments = segments(&[(1000, 10), (2000, 10), (3000, 10)]);
        let mut room = [Segment::EMPTY; 2];
        let mut list = List::new(&mut room);
        let mut cursor = Cursor::new(&segments);
        assert!(cursor.take(10, &mut list));
        assert!(!cursor.take(11, &mut list));
        assert_eq!(parts(&list), [(1000, 10)]);
        assert!(cursor.take(10, &mut list));
        assert_eq!(parts(&list), [(1000, 10), (2000, 10)]);
    }
}
