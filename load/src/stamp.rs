//! What verified blocks hold: enough to tell what they are and that every bit of them is right.
//!
//! ```text
//!   word 0  offset on the device, bytes       a block that went elsewhere
//!   word 1  generation                        a write that was lost, or came late
//!   word 2  salt of the run                   what was there before
//!   word 3  checksum of all other words       anything else
//!   word 4… random words that follow from words 0 to 2
//! ```

use crate::Buffer;
use crate::rng::Rng;

const OFFSET: usize = 0;
const GENERATION: usize = 1;
const SALT: usize = 2;
const CHECKSUM: usize = 3;
const BODY: usize = 4;
/// What a buffer holds before a read, at its first word; no offset is odd.
const POISON: u64 = u64::MAX;

/// What a block should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) offset_bytes: u64,
    pub(crate) generation: u64,
    pub(crate) salt: u64,
}

/// How a block differs from its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("the read wrote nothing into the buffer")]
    Untouched,
    #[error("it holds nothing that this run wrote")]
    Foreign,
    #[error("it holds the block of offset {0}")]
    Elsewhere(u64),
    #[error("it holds its generation {0}: a write was lost")]
    Stale(u64),
    #[error("its stamp is right and its checksum wrong: bits have changed")]
    Corrupt,
}

impl Stamp {
    /// Fills a block.
    pub(crate) fn write(self, block: Buffer<'_>) {
        let mut rng = self.rng();
        block.set(OFFSET, self.offset_bytes);
        block.set(GENERATION, self.generation);
        block.set(SALT, self.salt);
        let mut sum = self.sum();
        for index in BODY..block.words() {
            let word = rng.next();
            sum = mix(sum, word);
            block.set(index, word);
        }
        block.set(CHECKSUM, sum);
    }

    /// Checks a block that was read.
    pub(crate) fn check(self, block: Buffer<'_>) -> Result<(), Mismatch> {
        let sum = (BODY..block.words()).fold(self.sum(), |sum, index| mix(sum, block.get(index)));
        let found = Self {
            offset_bytes: block.get(OFFSET),
            generation: block.get(GENERATION),
            salt: block.get(SALT),
        };
        if found == self && sum == block.get(CHECKSUM) {
            return Ok(());
        }
        Err(match found {
            Self { offset_bytes: POISON, .. } => Mismatch::Untouched,
            Self { salt, .. } if salt != self.salt => Mismatch::Foreign,
            Self { offset_bytes, .. } if offset_bytes != self.offset_bytes => {
                Mismatch::Elsewhere(offset_bytes)
            }
            Self { generation, .. } if generation != self.generation => Mismatch::Stale(generation),
            _ => Mismatch::Corrupt,
        })
    }

    fn rng(self) -> Rng {
        Rng::new(self.salt ^ self.offset_bytes ^ self.generation.rotate_right(16))
    }

    fn sum(self) -> u64 {
        mix(mix(mix(0, self.offset_bytes), self.generation), self.salt)
    }
}

/// Makes sure that a read that moves no data is seen.
pub(crate) fn poison(block: Buffer<'_>) {
    block.set(OFFSET, POISON);
}

/// One step of the checksum; each is one-to-one in both, so that no single changed word goes unseen.
#[inline]
fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { offset_bytes: 8192, generation: 3, salt: 77 };

    fn buffer(words: &mut [u64]) -> Buffer<'_> {
        // SAFETY: the words are borrowed for as long as the buffer, and are aligned.
        unsafe { Buffer::new(words.as_mut_ptr().cast(), words.len() * 8) }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut words = [0u64; 64];
        STAMP.write(buffer(&mut words));
        assert_eq!(STAMP.check(buffer(&mut words)), Ok(()));
        for bit in 0..64 * 64 {
            words[bit / 64] ^= 1 << (bit % 64);
            assert!(STAMP.check(buffer(&mut words)).is_err(), "bit {bit}");
            words[bit / 64] ^= 1 << (bit % 64);
        }
    }

    #[test]
    fn mismatches_are_told_apart() {
        let mut words = [0u64; 64];
        let mut check = |found: Stamp| {
            found.write(buffer(&mut words));
            STAMP.check(buffer(&mut words))
        };
        assert_eq!(check(Stamp { offset_bytes: 4096, ..STAMP }), Err(Mismatch::Elsewhere(4096)));
        assert_eq!(check(Stamp { generation: 2, ..STAMP }), Err(Mismatch::Stale(2)));
        assert_eq!(check(Stamp { salt: 1, ..STAMP }), Err(Mismatch::Foreign));
        poison(buffer(&mut words));
        assert_eq!(STAMP.check(buffer(&mut words)), Err(Mismatch::Untouched));
        STAMP.write(buffer(&mut words));
        words[63] ^= 1;
        assert_eq!(STAMP.check(buffer(&mut words)), Err(Mismatch::Corrupt));
    }
}
