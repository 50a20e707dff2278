//! Where a driver's rings and buffers lie, and what its chains look like.
//!
//! ```text
//!   arena:  descriptors | driver area | device area | headers | status bytes | indirect tables | data
//!           └──────────────────────── region 0 ─────────────────────────────────────────────┘ └ 0, or 1..7 ┘
//! ```
//! Chain `i` is always the same buffers: a header, 4 KiB of data, a status byte. Headers and status bytes are apart, so
//! that a cache line is written by one side only.

use std::sync::Arc;

use spinblk_virtio::{MemoryMap, RingAddresses, RingConfig, RingKind};

use crate::arena::{Arena, PAGE_BYTES};

/// Chains of a driver, and so the greatest number in flight.
pub const CHAINS: u16 = 128;

/// Buffers of a chain.
pub(crate) const BUFFERS: u16 = 3;
const DATA_BYTES: u32 = 4096;
/// Address of the arena, as the device is told.
const BASE: u64 = 0x1_0000;
/// Distance of the regions' addresses, when there are several.
const STRIDE: u64 = 1 << 32;

pub(crate) const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Offsets of the arena's parts, each on pages of its own.
pub(crate) const DESCS: usize = 0;
pub(crate) const DRIVER_AREA: usize = DESCS + 2 * PAGE_BYTES;
pub(crate) const DEVICE_AREA: usize = DRIVER_AREA + PAGE_BYTES;
const HEADERS: usize = DEVICE_AREA + 2 * PAGE_BYTES;
const STATUSES: usize = HEADERS + PAGE_BYTES;
const TABLES: usize = STATUSES + PAGE_BYTES;
const DATA: usize = TABLES + 2 * PAGE_BYTES;
const DATA_PAGE: usize = DATA / PAGE_BYTES;

/// How a queue is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Split or packed.
    pub kind: RingKind,
    /// Whether each chain is a table of its own.
    pub indirect: bool,
    /// Regions of guest memory: 1, or up to 8 with the data spread over all but the first.
    pub regions: usize,
}

/// One descriptor, without a packed ring's AVAIL and USED.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) iova: u64,
    pub(crate) len_bytes: u32,
    pub(crate) flags: u16,
}

impl Shape {
    /// What most drivers do: a split ring with indirect chains, all memory in one piece.
    pub const USUAL: Self = Self { kind: RingKind::Split, indirect: true, regions: 1 };

    /// Its name in tables and files.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = match self.kind {
            RingKind::Split => "split",
            RingKind::Packed => "packed",
        };
        let chain = if self.indirect { "indirect" } else { "direct" };
        format!("{kind} {chain}, {} region{}", self.regions, if self.regions == 1 { "" } else { "s" })
    }

    /// Ring entries of a chain.
    pub(crate) fn places(&self) -> u16 {
        if self.indirect { 1 } else { BUFFERS }
    }

    /// Entries of the ring. A packed ring holds the chains without a rest, so that they stay in their places.
    pub(crate) fn ring_size(&self) -> u16 {
        match self.kind {
            RingKind::Split => (CHAINS * self.places()).next_power_of_two(),
            RingKind::Packed => CHAINS * self.places(),
        }
    }

    /// What to tell the device about the ring.
    pub(crate) fn ring_config(&self) -> RingConfig {
        let at = |offset: usize| BASE + offset as u64;
        RingConfig {
            kind: self.kind,
            addresses: RingAddresses { desc: at(DESCS), avail: at(DRIVER_AREA), used: at(DEVICE_AREA) },
            size: self.ring_size(),
            state: self.kind.start(),
            event_idx: false,
        }
    }

    /// Memory for all of it.
    pub(crate) fn arena(&self) -> Arc<Arena> {
        Arena::new(DATA_PAGE + self.data_regions() * self.pages_of_each())
    }

    /// The memory as the device is to see it.
    pub(crate) fn memory_map(&self, arena: &Arc<Arena>) -> Arc<MemoryMap> {
        let each = self.pages_of_each();
        if self.regions == 1 {
            return Arc::new(MemoryMap::new([arena.region(BASE, 0..DATA_PAGE + each)]));
        }
        let data = (0..self.data_regions()).map(|region| {
            let first = DATA_PAGE + region * each;
            arena.region(BASE + (region as u64 + 1) * STRIDE, first..first + each)
        });
        Arc::new(MemoryMap::new(data.chain([arena.region(BASE, 0..DATA_PAGE)])))
    }

    /// What stands in the ring for a chain.
    #[inline]
    pub(crate) fn entry(&self, chain: u16, index: u16) -> Entry {
        if self.indirect {
            let iova = BASE + table(chain) as u64;
            Entry { iova, len_bytes: 16 * u32::from(BUFFERS), flags: INDIRECT }
        } else {
            self.buffer(chain, index)
        }
    }

    /// One buffer of a chain.
    #[inline]
    pub(crate) fn buffer(&self, chain: u16, index: u16) -> Entry {
        match index {
            0 => Entry { iova: BASE + header(chain) as u64, len_bytes: 16, flags: NEXT },
            1 => Entry { iova: self.data_iova(chain), len_bytes: DATA_BYTES, flags: NEXT | WRITE },
            _ => Entry { iova: BASE + status(chain) as u64, len_bytes: 1, flags: WRITE },
        }
    }

    #[inline]
    fn data_iova(&self, chain: u16) -> u64 {
        let chain = usize::from(chain);
        if self.regions == 1 {
            return BASE + (DATA + chain * PAGE_BYTES) as u64;
        }
        // Neighbours in the ring lie in different regions: the region hit last is never the right one.
        let (region, page) = (chain % self.data_regions(), chain / self.data_regions());
        BASE + (region as u64 + 1) * STRIDE + (page * PAGE_BYTES) as u64
    }

    /// Regions that hold the data: the only one, or all but the first.
    fn data_regions(&self) -> usize {
        self.regions.saturating_sub(1).max(1)
    }

    fn pages_of_each(&self) -> usize {
        usize::from(CHAINS).div_ceil(self.data_regions())
    }
}

/// Offsets of what belongs to a chain.
pub(crate) fn header(chain: u16) -> usize {
    HEADERS + 16 * usize::from(chain)
}

pub(crate) fn status(chain: u16) -> usize {
    STATUSES + usize::from(chain)
}

pub(crate) fn table(chain: u16) -> usize {
    TABLES + 64 * usize::from(chain)
}
