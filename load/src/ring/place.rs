//! Places of a packed ring, and the flags by which a descriptor there tells whose it is (2.8.1).

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A place in the ring, and the wrap counter that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u16,
    pub(super) wrap: bool,
}

impl Place {
    /// Where a new ring begins.
    pub(super) const START: Self = Self { index: 0, wrap: true };

    /// The place so much further on, at most one round.
    #[inline]
    pub(super) fn after(self, places: u16, ring_size: u16) -> Self {
        // Both are at most 32768 and one is less: the sum fits.
        let index = self.index + places;
        if index < ring_size {
            Self { index, ..self }
        } else {
            Self { index: index - ring_size, wrap: !self.wrap }
        }
    }

    /// Places from here to `later`, when that is less than two rounds away.
    #[inline]
    pub(super) fn distance_to(self, later: Self, ring_size: u16) -> u32 {
        let size = u32::from(ring_size);
        let steps = |place: Self| u32::from(place.index) + if place.wrap { 0 } else { size };
        (steps(later) + 2 * size - steps(self)) % (2 * size)
    }

    /// What the flags of an available descriptor here say.
    #[inline]
    pub(super) fn available(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    /// Whether these flags are those of a used descriptor here.
    #[inline]
    pub(super) fn is_used(self, flags: u16) -> bool {
        flags & (AVAIL | USED) == if self.wrap { AVAIL | USED } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_far_apart_are_measured_over_the_end() {
        let place = |index, wrap| Place { index, wrap };
        for size in [4u16, 6, 32768] {
            let last = place(size - 1, false);
            assert_eq!(last.after(1, size), Place::START);
            assert_eq!(place(0, false).distance_to(place(0, true), size), u32::from(size));
            assert_eq!(last.distance_to(place(1, true), size), 2);
            assert_eq!(place(1, true).distance_to(last, size), 2 * u32::from(size) - 2);
        }
    }
}
