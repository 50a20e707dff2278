//! Chance that can be repeated.

use std::ops::Range;

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    /// The next number, one of a range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (mixed ^ mixed >> 31) % (range.end - range.start).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_the_same_for_the_same_seed() {
        let throw = |seed| {
            let mut dice = Dice(seed);
            (0..50).map(|_| dice.within(3..9)).collect::<Vec<u64>>()
        };
        assert_eq!(throw(1), throw(1));
        assert_ne!(throw(1), throw(2));
        assert!(
            (3..9).all(|side| throw(1).contains(&side)) && throw(1).iter().all(|side| (3..9).contains(side))
        );
    }
}
