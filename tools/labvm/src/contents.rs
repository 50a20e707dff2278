//! What a disk should hold, as far as one knows.

use crate::pattern::Pattern;
use std::ops::Range;

/// What one block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Nobody has said.
    Unknown,
    /// Zeroes.
    Zeroes,
    /// A writing.
    Written(Pattern),
}

/// All blocks of a disk, and which of them a request is at.
pub struct Contents {
    block_bytes: usize,
    blocks: Vec<Block>,
    taken: Vec<bool>,
}

impl Contents {
    /// A disk of so many blocks, of which nothing is known.
    #[must_use]
    pub fn unknown(block_bytes: usize, blocks: usize) -> Contents {
        Contents { block_bytes, blocks: vec![Block::Unknown; blocks], taken: vec![false; blocks] }
    }

    /// Its blocks.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a disk without a block is none")]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Takes a range for a request; false if another one is there, or it is none.
    pub fn take(&mut self, range: Range<usize>) -> bool {
        let free = self.taken.get(range.clone()).is_some_and(|taken| !taken.contains(&true));
        if free {
            self.taken[range].fill(true);
        }
        free
    }

    /// The request is done, and this is what the blocks hold now.
    pub fn give_back(&mut self, range: Range<usize>, now: Option<Block>) {
        self.taken[range.clone()].fill(false);
        if let Some(now) = now {
            self.blocks[range].fill(now);
        }
    }

    /// The first block of a range that holds something else than was read there.
    #[must_use]
    pub fn first_wrong(&self, range: Range<usize>, read: &[u8]) -> Option<(usize, Block)> {
        let wrong = |&(index, piece): &(usize, &[u8])| match self.blocks[index] {
            Block::Unknown => false,
            Block::Zeroes => piece.iter().any(|byte| *byte != 0),
            Block::Written(pattern) => !pattern.is_in((index * self.block_bytes) as u64, piece),
        };
        let found = range.zip(read.chunks_exact(self.block_bytes)).find(wrong);
        found.map(|(index, _)| (index, self.blocks[index]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_taken_once() {
        let mut contents = Contents::unknown(512, 8);
        assert!(contents.take(2..4) && !contents.take(3..5) && contents.take(4..8) && !contents.take(7..9));
        contents.give_back(2..4, None);
        assert!(contents.take(0..4));
    }

    #[test]
    fn what_is_wrong_is_found() {
        let mut contents = Contents::unknown(512, 4);
        let mut read = vec![0; 4 * 512];
        read[5] = 1;
        assert_eq!(contents.first_wrong(0..4, &read), None);
        contents.give_back(0..2, Some(Block::Zeroes));
        assert_eq!(contents.first_wrong(0..4, &read), Some((0, Block::Zeroes)));
        contents.give_back(0..1, Some(Block::Unknown));
        contents.give_back(3..4, Some(Block::Written(Pattern(7))));
        assert_eq!(contents.first_wrong(0..4, &read), Some((3, Block::Written(Pattern(7)))));
        Pattern(7).fill(3 * 512, &mut read[3 * 512..]);
        assert_eq!(contents.first_wrong(0..4, &read), None);
    }
}
