//! What a client has said of one queue so far, and what follows from it.
//!
//! ```text
//!   NUM, ADDR, (BASE), KICK ──► set up ──┐
//!   ENABLE 1 (with PROTOCOL_FEATURES) ───┴──► runs        ENABLE 0 or GET_VRING_BASE ──► stands still at `base`
//! ```

use spinblk_virtio::{RingAddresses, RingConfig, RingKind, RingState};

/// Where the parts of a ring are, in the client's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserRing {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// The protocol's state of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vring {
    /// Entries.
    pub(crate) size: Option<u16>,
    /// Where it is.
    pub(crate) ring: Option<UserRing>,
    /// Where to go on: what the client said, or where the ring stood when it stopped; `None` for the start.
    pub(crate) state: Option<RingState>,
    /// What GET_VRING_BASE last answered with.
    pub(crate) told: Option<RingState>,
    /// SET_VRING_KICK came, which starts a ring.
    pub(crate) kicked: bool,
    /// SET_VRING_ENABLE came.
    pub(crate) enabled: bool,
}

impl Vring {
    /// How to run the ring, if it is to run, with what was `negotiated`. The inner `None` means that it lies outside the
    /// client's memory.
    pub(crate) fn config(
        &self,
        negotiated: Negotiated,
        guest_address: impl Fn(u64) -> Option<u64>,
    ) -> Option<Option<RingConfig>> {
        let Negotiated { kind, event_idx, implied } = negotiated;
        let (Some(size), Some(ring)) = (self.size, self.ring) else { return None };
        if !self.kicked || !(self.enabled || implied) {
            return None;
        }
        let addresses = || {
            Some(RingAddresses {
                desc: guest_address(ring.desc)?,
                avail: guest_address(ring.avail)?,
                used: guest_address(ring.used)?,
            })
        };
        let state = self.state.unwrap_or(kind.start());
        let config = |addresses| RingConfig { kind, addresses, size, state, event_idx };
        Some(addresses().map(config))
    }
}

impl Vring {
    /// Takes the number that SET_VRING_BASE carries. One that GET_VRING_BASE has just answered with means the very state that
    /// it stood for: a packed ring's 0 may be the start, or places 0 of another round.
    pub(crate) fn set_base(&mut self, kind: RingKind, base: u32) {
        let mut known = [self.state, self.told].into_iter().flatten();
        let meant = known.find(|&state| base_from_state(kind, state) == base);
        self.state = Some(meant.unwrap_or_else(|| state_from_base(kind, base)));
    }

    /// The number that GET_VRING_BASE answers with.
    pub(crate) fn tell_base(&mut self, kind: RingKind) -> u32 {
        let state = self.state.unwrap_or(kind.start());
        self.told = Some(state);
        base_from_state(kind, state)
    }

    /// What is left of it when the device status becomes 0: clients do that between GET_VRING_BASE and SET_VRING_BASE when a
    /// VM pauses.
    pub(crate) fn reset(&mut self) {
        *self = Self { told: self.told, ..Self::default() };
    }
}

/// What the accepted features say about rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    pub(crate) kind: RingKind,
    pub(crate) event_idx: bool,
    /// The client need not enable its rings.
    pub(crate) implied: bool,
}

/// A ring's state from its number in the protocol. Split: the avail index. Packed: the avail place with its
/// wrap counter in the lower half, the used place in the upper; drivers differ in what they send for the start, and some
/// know no used place: 0 is the start, and a lower half alone means that nothing is in flight.
fn state_from_base(kind: RingKind, base: u32) -> RingState {
    match (kind, base as u16, (base >> 16) as u16) {
        (RingKind::Packed, 0, 0) => kind.start(),
        (RingKind::Packed, avail, 0) => RingState { avail, used: avail },
        (_, avail, used) => RingState { avail, used },
    }
}

/// The number again.
fn base_from_state(kind: RingKind, state: RingState) -> u32 {
    match kind {
        RingKind::Split => state.avail.into(),
        RingKind::Packed => u32::from(state.avail) | u32::from(state.used) << 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_runs_when_everything_about_it_is_known() {
        let ring = Some(UserRing { desc: 0x1000, avail: 0x2000, used: 0x3000 });
        let state = Some(RingState { avail: 3, used: 0 });
        let whole = Vring { size: Some(8), ring, state, told: None, kicked: true, enabled: true };
        let split = |implied| Negotiated { kind: RingKind::Split, event_idx: true, implied };
        let config = |vring: Vring, implied| vring.config(split(implied), |user| Some(user + 1));
        let running = config(whole, false).unwrap().unwrap();
        assert_eq!((running.size, running.state.avail, running.event_idx), (8, 3, true));
        assert_eq!(running.addresses, RingAddresses { desc: 0x1001, avail: 0x2001, used: 0x3001 });
        for lacking in [
            Vring { size: None, ..whole },
            Vring { ring: None, ..whole },
            Vring { kicked: false, ..whole },
            Vring { enabled: false, ..whole },
        ] {
            assert!(config(lacking, false).is_none());
        }
        assert!(config(Vring { enabled: false, ..whole }, true).is_some());
        assert_eq!(whole.config(split(false), |user| (user < 0x3000).then_some(user)), Some(None));
    }

    #[test]
    fn a_packed_ring_that_stopped_at_zero_goes_on_there() {
        let stopped = RingState { avail: 0, used: 0 };
        let mut vring = Vring { state: Some(stopped), ..Vring::default() };
        assert_eq!(vring.tell_base(RingKind::Packed), 0);
        vring.set_base(RingKind::Packed, 0);
        assert_eq!(vring.state, Some(stopped));
        vring.reset();
        assert_eq!(vring.state, None);
        vring.set_base(RingKind::Packed, 0);
        assert_eq!(vring.state, Some(stopped), "a paused VM goes on");
        let mut fresh = Vring::default();
        fresh.set_base(RingKind::Packed, 0);
        assert_eq!(fresh.state, Some(RingKind::Packed.start()));
    }

    #[test]
    fn packed_bases_come_in_three_forms() {
        let state = |avail, used| RingState { avail, used };
        for (base, want) in [
            (0, state(0x8000, 0x8000)),
            (0x8000, state(0x8000, 0x8000)),
            (0x8000_8000, state(0x8000, 0x8000)),
            (0x0003_8005, state(0x8005, 3)),
            (7, state(7, 7)),
        ] {
            assert_eq!(state_from_base(RingKind::Packed, base), want, "{base:#x}");
        }
        assert_eq!(base_from_state(RingKind::Packed, state(0x8005, 3)), 0x0003_8005);
        // The start, in which a used place of 0 cannot stand beside a wrap counter of 1.
        assert_eq!(base_from_state(RingKind::Packed, RingKind::Packed.start()), 0x8000_8000);
        assert_eq!(base_from_state(RingKind::Split, state(0xffff, 9)), 0xffff);
        assert_eq!(state_from_base(RingKind::Split, 0xffff).avail, 0xffff);
    }
}
