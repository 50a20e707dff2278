//! Random numbers for less than a nanosecond: xorshift64*, seeded through splitmix64.
//!
//! Good enough to spread requests and fill blocks; no secret may come from it.

/// A stream of numbers that follows from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds must give streams that have nothing in common, and the state must not be 0.
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((z ^ (z >> 31)) | 1)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`; 0 when that is 0.
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product spreads evenly, with no division.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_below_the_bound_comes_about_equally_often() {
        const BOUND: u64 = 100;
        let mut rng = Rng::new(7);
        let mut counts = [0u32; BOUND as usize];
        for _ in 0..BOUND * 1000 {
            counts[usize::try_from(rng.below(BOUND)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn seeds_give_different_streams() {
        let first: Vec<u64> = (0..1000).map(|seed| Rng::new(seed).next()).collect();
        let mut distinct = first.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), first.len());
    }
}
