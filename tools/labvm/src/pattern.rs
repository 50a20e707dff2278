//! Data that knows its place: every word tells where it belongs and which writing it is from, so that a block that
//! lies somewhere else, or is older than it should be, shows.

use crate::block::{DirectDisk, STEP_LEN};
use crate::fail::Fail;
use std::ops::Range;

const WORD_LEN: usize = 8;
/// The lengths of a writing's requests, in turn: they meet the boundaries of chunks and stripes everywhere.
const REQUESTS: [usize; 5] = [4 << 10, 60 << 10, STEP_LEN, 12 << 10, 132 << 10];

/// One writing; another number makes other data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern(pub u64);

impl Pattern {
    /// Writes a range of bytes.
    pub(crate) fn write(self, disk: &DirectDisk, range: Range<u64>) -> Result<(), Fail> {
        disk.write(pieces(range), |at, piece| self.fill(at, piece))
    }

    /// Puts it into a piece that belongs at this byte.
    pub fn fill(self, at: u64, piece: &mut [u8]) {
        for (word, place) in piece.chunks_exact_mut(WORD_LEN).zip((at..).step_by(WORD_LEN)) {
            word.copy_from_slice(&self.word(place));
        }
    }

    /// Asks that a range of bytes holds nothing else.
    pub(crate) fn expect(self, disk: &DirectDisk, range: Range<u64>) -> Result<(), Fail> {
        disk.read(pieces(range), |at, piece| {
            let Some(wrong) = self.first_wrong(at, piece) else { return Ok(()) };
            let path = disk.path().display();
            Err(Fail::Check(format!("{path} does not hold {self:?} at byte {wrong}")))
        })
    }

    /// Whether a piece that was read at this byte holds nothing else.
    #[must_use]
    pub fn is_in(self, at: u64, piece: &[u8]) -> bool {
        self.first_wrong(at, piece).is_none()
    }

    /// The place of the first word that is another.
    fn first_wrong(self, at: u64, piece: &[u8]) -> Option<u64> {
        let mut words = piece.chunks_exact(WORD_LEN).zip((at..).step_by(WORD_LEN));
        words.find(|(word, place)| *word != self.word(*place)).map(|(_, place)| place)
    }

    /// The bits of number and place, well mixed (as SplitMix64 does), so that no two words are alike.
    fn word(self, place: u64) -> [u8; WORD_LEN] {
        let mut bits = ((self.0 << 48) | (place / WORD_LEN as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)).to_le_bytes()
    }
}

/// The requests that cover a range, each with its offset and length.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let (mut at, mut lens) = (range.start, REQUESTS.into_iter().cycle());
    std::iter::from_fn(move || {
        let left = usize::try_from(range.end.checked_sub(at)?).unwrap_or(usize::MAX);
        let piece = (at, lens.next()?.min(left));
        at += piece.1 as u64;
        (left > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range() {
        let all: Vec<_> = pieces(512..600 << 10).collect();
        assert_eq!(all[0], (512, 4 << 10));
        assert!(all.windows(2).all(|two| two[0].0 + two[0].1 as u64 == two[1].0));
        let last = all[all.len() - 1];
        assert_eq!(last.0 + last.1 as u64, 600 << 10);
        assert_eq!(pieces(7..7).count(), 0);
    }

    #[test]
    fn another_place_and_another_writing_show() {
        let mut piece = Vec::new();
        (0..512u64).for_each(|n| piece.extend(Pattern(1).word(4096 + n * 8)));
        assert!(Pattern(1).is_in(4096, &piece));
        assert!(!Pattern(1).is_in(8192, &piece) && !Pattern(2).is_in(4096, &piece));
        piece[4095] ^= 1;
        assert_eq!(Pattern(1).first_wrong(4096, &piece), Some(8184));
    }
}
