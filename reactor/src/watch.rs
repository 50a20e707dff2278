//! What a reactor looks at instead of calling a poller that has nothing to do: one word of memory.
//!
//! A poll costs a virtual call and a walk through the poller's state; a look costs one load and a comparison. So a disk
//! can have many queues, and a client many disks, of which few are busy.

/// A 16-bit word that stays as it is for as long as there is nothing to do.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    word: *const u16,
    mask: u16,
    value: u16,
    quiet_when_equal: bool,
}

impl Watch {
    /// Quiet for as long as the word holds `value`.
    ///
    /// # Safety
    /// `word` must be aligned, and mapped until the poller that gave it out is polled or dropped, or a job has run.
    #[inline]
    #[must_use]
    pub unsafe fn while_equal(word: *const u16, value: u16) -> Self {
        Self { word, mask: u16::MAX, value, quiet_when_equal: true }
    }

    /// Quiet until the bits of `mask` in the word are those of `value`.
    ///
    /// # Safety
    /// As for [`while_equal`](Self::while_equal).
    #[inline]
    #[must_use]
    pub unsafe fn until_equal(word: *const u16, mask: u16, value: u16) -> Self {
        Self { word, mask, value, quiet_when_equal: false }
    }

    /// Whether there is still nothing to do. Orders nothing: the poll that follows reads again, with the ordering it needs.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        // SAFETY: mapped and aligned, by the contract of whoever made it; others may write at the same time.
        let word = unsafe { self.word.read_volatile() };
        ((word ^ self.value) & self.mask == 0) == self.quiet_when_equal
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_tells_quiet_from_not() {
        let word = 0x8085u16;
        // SAFETY: the word outlives the watches.
        let (same, other, until, not_yet) = unsafe {
            (
                Watch::while_equal(&word, 0x8085),
                Watch::while_equal(&word, 0x0085),
                Watch::until_equal(&word, 0x8080, 0x8080),
                Watch::until_equal(&word, 0x8080, 0x0080),
            )
        };
        assert!(same.is_quiet() && !other.is_quiet());
        assert!(!until.is_quiet() && not_yet.is_quiet());
    }
}
