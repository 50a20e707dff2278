//! What a channel did that its caller does not see in the results.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Counts of one channel since it was opened, or of several together. A layer adds up those of its children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounters {
    /// I/Os that started out in registered (fixed) buffers.
    pub fixed_buffer_ios: u64,
    /// I/Os copied through a buffer of the channel, as O_DIRECT did not take their memory.
    pub bounced_ios: u64,
    /// I/Os that ended in a poll queue of the device, without an interrupt.
    pub polled_ios: u64,
    /// Operations sent again because the kernel said so (EAGAIN, EINTR).
    pub retries: u64,
    /// I/Os that failed because the target is full.
    pub no_space: u64,
    /// I/Os that the target failed in any other way.
    pub failed: u64,
}

impl AddAssign for ChannelCounters {
    fn add_assign(&mut self, other: Self) {
        self.fixed_buffer_ios += other.fixed_buffer_ios;
        self.bounced_ios += other.bounced_ios;
        self.polled_ios += other.polled_ios;
        self.retries += other.retries;
        self.no_space += other.no_space;
        self.failed += other.failed;
    }
}

impl Add for ChannelCounters {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for ChannelCounters {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_adds_up() {
        let one = ChannelCounters {
            fixed_buffer_ios: 1,
            bounced_ios: 2,
            polled_ios: 3,
            retries: 4,
            no_space: 5,
            failed: 6,
        };
        let three = ChannelCounters {
            fixed_buffer_ios: 3,
            bounced_ios: 6,
            polled_ios: 9,
            retries: 12,
            no_space: 15,
            failed: 18,
        };
        assert_eq!([one; 3].into_iter().sum::<ChannelCounters>(), three);
    }
}
