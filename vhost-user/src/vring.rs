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
    /// The avail index to begin at.
    pub(crate) base: u16,
    /// SET_VRING_KICK came, which starts a ring.
    pub(crate) kicked: bool,
    /// SET_VRING_ENABLE came.
    pub(crate) enabled: bool,
}

impl Vring {
    /// How to run the ring, if it is to run: `implied` when the client need not enable it. The inner `None` means that
    /// it lies outside the client's memory.
    pub(crate) fn config(
        &self,
        implied: bool,
        event_idx: bool,
        guest_address: impl Fn(u64) -> Option<u64>,
    ) -> Option<Option<RingConfig>> {
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
        let state = RingState { avail: self.base, used: 0 };
        let config = |addresses| RingConfig { kind: RingKind::Split, addresses, size, state, event_idx };
        Some(addresses().map(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_runs_when_everything_about_it_is_known() {
        let ring = Some(UserRing { desc: 0x1000, avail: 0x2000, used: 0x3000 });
        let whole = Vring { size: Some(8), ring, base: 3, kicked: true, enabled: true };
        let config = |vring: Vring, implied| vring.config(implied, true, |user| Some(user + 1));
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
        assert_eq!(whole.config(false, true, |user| (user < 0x3000).then_some(user)), Some(None));
    }
}
