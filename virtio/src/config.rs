//! How a queue is set up: what the driver chose, as the transport hands it over.

/// The format of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingKind {
    /// A descriptor table, an avail ring and a used ring (section 2.7).
    #[default]
    Split,
    /// One ring of descriptors, written by both sides (section 2.8). Needs RING_PACKED negotiated.
    Packed,
}

impl RingKind {
    /// The state of a ring that was never used.
    #[must_use]
    pub fn start(self) -> RingState {
        match self {
            Self::Split => RingState { avail: 0, used: 0 },
            Self::Packed => RingState { avail: RingState::WRAP, used: RingState::WRAP },
        }
    }
}

/// How far the device has come in a ring.
///
/// Split: `avail` is the next avail index; `used` equals the index in the used ring and is read from there, never from
/// here. Packed: each is a place in the ring, with the wrap counter in the highest bit (2.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingState {
    /// What the device takes next.
    pub avail: u16,
    /// Where the device returns next.
    pub used: u16,
}

impl RingState {
    /// The wrap counter of a packed place.
    pub const WRAP: u16 = 1 << 15;
}

/// Where the driver put a queue, as IOVAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table or, packed, descriptor ring; 16-byte aligned.
    pub desc: u64,
    /// Avail ring ("driver area"), 2-byte aligned; packed: the driver's event suppression, 4-byte aligned.
    pub avail: u64,
    /// Used ring ("device area"), 4-byte aligned; packed: the device's event suppression.
    pub used: u64,
}

/// How a queue is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Its format.
    pub kind: RingKind,
    /// Where its parts are.
    pub addresses: RingAddresses,
    /// Entries: a power of two up to 32768; packed, any number up to 32768.
    pub size: u16,
    /// Where to go on; [`RingKind::start`] after a reset.
    pub state: RingState,
    /// Whether EVENT_IDX was negotiated.
    pub event_idx: bool,
}
