//! The stages of a request's way, and the stamps that part them.
//!
//! ```text
//!        looked         seen        submitted     completed      returned     interrupted
//!   ───────┼─────────────┼──────────────┼─────────────┼─────────────┼─────────────┼──►
//!          │   pick-up   │    submit    │    bdev     │   return    │  interrupt  │
//! ```
//! `looked` is when the avail ring was found empty last: the request came after that. So pick-up is the longest that it
//! may have waited to be seen; nobody can know the exact time but the driver. Stages add up to the total, always: each
//! begins where the one before it ends.

use crate::{Clock, Ticks};

/// A part of a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Stage {
    /// In the avail ring, not seen yet: at most this long.
    PickUp,
    /// Seen, and read, checked and handed to the block device; behind those before it in its batch.
    Submit,
    /// With the block device.
    Bdev,
    /// Done, and until the used ring shows it.
    Return,
    /// In the used ring, and until the driver's interrupt is sent; only for those that one was sent for.
    Interrupt,
}

impl Stage {
    /// All stages in their order.
    pub const ALL: [Self; 5] = [Self::PickUp, Self::Submit, Self::Bdev, Self::Return, Self::Interrupt];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PickUp => "pick_up",
            Self::Submit => "submit",
            Self::Bdev => "bdev",
            Self::Return => "return",
            Self::Interrupt => "interrupt",
        }
    }
}

/// When a request passed from stage to stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// The avail ring was empty.
    pub looked: Ticks,
    /// The request was there.
    pub seen: Ticks,
    /// It had been handed to the block device.
    pub submitted: Ticks,
    /// The block device was done.
    pub completed: Ticks,
    /// The used ring showed it.
    pub returned: Ticks,
    /// The interrupt had been sent; `None` where none was.
    pub interrupted: Option<Ticks>,
}

impl Stamps {
    /// Nanoseconds of each stage, in the order of [`Stage::ALL`], and of all together. A stamp that lies before the one
    /// before it counts as equal to it.
    #[inline]
    #[must_use]
    pub fn to_ns(&self, clock: &Clock) -> ([u64; 5], u64) {
        let mut ns = [0; 5];
        let mut last = self.looked;
        let interrupted = self.interrupted.unwrap_or(self.returned);
        let stamps = [self.seen, self.submitted, self.completed, self.returned, interrupted];
        let mut total = 0;
        for (stage, stamp) in ns.iter_mut().zip(stamps) {
            // Where requests are done at once, several stamps are the same.
            if stamp > last {
                *stage = clock.to_ns(stamp - last);
                total += *stage;
                last = stamp;
            }
        }
        (ns, total)
    }
}

/// How large a request's data is, roughly: the classes that reads and writes are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum SizeClass {
    /// Up to 512 bytes.
    To512,
    /// Up to 4 KiB.
    To4KiB,
    /// Up to 16 KiB.
    To16KiB,
    /// Up to 64 KiB.
    To64KiB,
    /// Up to 256 KiB.
    To256KiB,
    /// More.
    Larger,
}

impl SizeClass {
    /// All classes, from small to large.
    pub const ALL: [Self; 6] =
        [Self::To512, Self::To4KiB, Self::To16KiB, Self::To64KiB, Self::To256KiB, Self::Larger];

    /// The class of a request of `bytes`.
    #[inline]
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        match bytes {
            0..=0x200 => Self::To512,
            0x201..=0x1000 => Self::To4KiB,
            0x1001..=0x4000 => Self::To16KiB,
            0x4001..=0x1_0000 => Self::To64KiB,
            0x1_0001..=0x4_0000 => Self::To256KiB,
            _ => Self::Larger,
        }
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::To512 => "to_512",
            Self::To4KiB => "to_4k",
            Self::To16KiB => "to_16k",
            Self::To64KiB => "to_64k",
            Self::To256KiB => "to_256k",
            Self::Larger => "larger",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_whatever_the_stamps() {
        let clock = Clock::get();
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) + 1_000
        };
        for round in 0..1000 {
            let stamps = Stamps {
                looked: random(),
                seen: random(),
                submitted: random(),
                completed: random(),
                returned: random(),
                interrupted: (round % 2 == 0).then(&mut random),
            };
            let (ns, total) = stamps.to_ns(&clock);
            assert_eq!(ns.iter().sum::<u64>(), total);
            if stamps.interrupted.is_none() {
                assert_eq!(ns[Stage::Interrupt as usize], 0);
            }
        }
    }

    #[test]
    fn stages_are_what_lies_between_stamps() {
        let clock = Clock::get();
        let stamps = Stamps {
            looked: 1 << 20,
            seen: 3 << 20,
            submitted: 4 << 20,
            completed: 8 << 20,
            returned: 8 << 20,
            interrupted: Some(10 << 20),
        };
        let want = [2 << 20, 1 << 20, 4 << 20, 0, 2 << 20].map(|ticks| clock.to_ns(ticks));
        assert_eq!(stamps.to_ns(&clock).0, want);
    }

    #[test]
    fn classes_have_their_bounds() {
        let bounds = [512, 4096, 16_384, 65_536, 262_144];
        for (index, bound) in bounds.into_iter().enumerate() {
            assert_eq!(SizeClass::of(bound), SizeClass::ALL[index]);
            assert_eq!(SizeClass::of(bound + 1), SizeClass::ALL[index + 1]);
        }
        for (index, class) in SizeClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }
}
