//! What a virtio-blk device offers and what the generator takes of it, whoever carries the words.
//!
//! ```text
//!   RingOptions ──┐
//!   offered ──────┴─► features ──► agreed on ──► geometry ◄── configuration space (5.2.4)
//! ```
//! Contract: nothing here talks to a device; what one said is checked before it is believed.

use std::sync::Arc;

use virtio_bindings::{virtio_blk as blk, virtio_config, virtio_ring};

use crate::ring::layout::MAX_DEPTH;
use crate::{Error, Geometry, RingFormat};

/// Queues of one device that the generator uses at most.
pub(crate) const MAX_QUEUES: u16 = 64;
/// Configuration space up to the number of queues: all that is looked at.
pub(crate) const CONFIG_BYTES: usize = 36;
const SECTOR_BYTES: u64 = 512;

pub(crate) const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;
pub(crate) const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
const INDIRECT_DESC: u64 = 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
const RING_PACKED: u64 = 1 << virtio_config::VIRTIO_F_RING_PACKED;
const BLK_SIZE: u64 = 1 << blk::VIRTIO_BLK_F_BLK_SIZE;
const READ_ONLY: u64 = 1 << blk::VIRTIO_BLK_F_RO;
const MULTI_QUEUE: u64 = 1 << blk::VIRTIO_BLK_F_MQ;

/// How to use a device.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Queues to set up.
    pub queues: u16,
    /// Slots of each, at most 4096. The device may allow fewer: it limits the size of a ring.
    pub depth: u32,
    /// Bytes of each slot.
    pub block_bytes: u32,
    /// The format of the rings.
    pub format: RingFormat,
    /// Whether each request takes one ring entry that names a table, in place of three or four entries.
    pub indirect: bool,
    /// Whether to use EVENT_IDX when it is offered.
    pub event_idx: bool,
}

impl RingOptions {
    /// Refuses a depth that no ring has room for.
    pub(crate) fn check_depth(&self, target: &str) -> Result<(), Error> {
        if (1..=MAX_DEPTH).contains(&self.depth) {
            return Ok(());
        }
        let (what, why) = (format!("--qd {}", self.depth), format!("allowed: 1 to {MAX_DEPTH}"));
        Err(Error::Job { target: target.into(), what, why })
    }

    /// Refuses more queues than there are.
    pub(crate) fn check_queues(&self, target: &Geometry, offerer: &str) -> Result<(), Error> {
        if (1..=target.max_queues).contains(&self.queues) {
            return Ok(());
        }
        let why = format!("{offerer} offers {} queue(s)", target.max_queues);
        let what = format!("--queues {}", self.queues);
        Err(Error::Job { target: target.name.to_string(), what, why })
    }
}

/// Of what the device offers, what to agree on: what the options need, what is of use, and `transport`, features that are
/// taken wherever they are offered.
pub(crate) fn features(
    target: &str,
    offered: u64,
    transport: u64,
    options: &RingOptions,
) -> Result<u64, Error> {
    let packed = if options.format == RingFormat::Packed { RING_PACKED } else { 0 };
    let indirect = if options.indirect { INDIRECT_DESC } else { 0 };
    let event_idx = if options.event_idx { EVENT_IDX } else { 0 };
    let needed = [
        (VERSION_1, "it does not offer VIRTIO_F_VERSION_1: it is a device of another age"),
        (packed, "--ring packed: it does not offer VIRTIO_F_RING_PACKED; take --ring split"),
        (indirect, "--indirect: it does not offer VIRTIO_RING_F_INDIRECT_DESC; leave it out"),
    ];
    if let Some((_, lacks)) = needed.iter().find(|(bit, _)| offered & bit != *bit) {
        let lacks = format!("{lacks}; it offers the features {offered:#x}");
        return Err(Error::Feature { target: target.into(), lacks });
    }
    let wanted = VERSION_1 | packed | indirect | event_idx | BLK_SIZE | READ_ONLY | MULTI_QUEUE | transport;
    Ok(offered & wanted)
}

/// What the device is like, by the features that were agreed on and its configuration space, the first [`CONFIG_BYTES`].
pub(crate) fn geometry(name: Arc<str>, features: u64, config: &[u8]) -> Result<Geometry, Error> {
    let field = |offset: usize, len: usize| -> u64 {
        config.iter().skip(offset).take(len).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let block_size = if features & BLK_SIZE != 0 { field(20, 4) as u32 } else { 512 };
    if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
        let lacks = format!("its block size is {block_size}; a power of two from 512 is wanted");
        return Err(Error::Feature { target: name.to_string(), lacks });
    }
    let queues = if features & MULTI_QUEUE != 0 { field(34, 2) as u16 } else { 1 };
    Ok(Geometry {
        name,
        size_bytes: field(0, 8).saturating_mul(SECTOR_BYTES),
        block_size,
        read_only: features & READ_ONLY != 0,
        interrupts: true,
        max_queues: queues.clamp(1, MAX_QUEUES),
        max_depth: MAX_DEPTH,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: RingOptions = RingOptions {
        queues: 1,
        depth: 1,
        block_bytes: 512,
        format: RingFormat::Packed,
        indirect: true,
        event_idx: true,
    };

    #[test]
    fn what_is_needed_must_be_offered_and_nothing_else_is_taken() {
        let needed = VERSION_1 | RING_PACKED | INDIRECT_DESC;
        for (offered, want) in [
            (needed & !VERSION_1, "VIRTIO_F_VERSION_1"),
            (needed & !RING_PACKED, "--ring packed: it does not offer"),
            (needed & !INDIRECT_DESC, "--indirect: it does not offer"),
        ] {
            let error = features("x:y", offered, 0, &ALL).unwrap_err().to_string();
            let offers = format!("it offers the features {offered:#x}");
            assert!(error.contains("x:y: ") && error.contains(want) && error.contains(&offers), "{error}");
        }
        let platform = 1 << virtio_config::VIRTIO_F_ACCESS_PLATFORM;
        assert_eq!(features("", needed, platform, &ALL).unwrap(), needed);
        let optional = EVENT_IDX | BLK_SIZE | READ_ONLY | MULTI_QUEUE | platform;
        assert_eq!(features("", u64::MAX, platform, &ALL).unwrap(), needed | optional);
        let least = RingOptions { format: RingFormat::Split, indirect: false, event_idx: false, ..ALL };
        let few = VERSION_1 | BLK_SIZE | READ_ONLY | MULTI_QUEUE;
        assert_eq!(features("", u64::MAX, 0, &least).unwrap(), few);
    }

    #[test]
    fn configuration_space_counts_as_far_as_features_say() {
        let mut config = [0xFF; CONFIG_BYTES];
        config[..8].copy_from_slice(&[3, 1, 0, 0, 0, 0, 0, 0]);
        config[20..24].copy_from_slice(&[0, 16, 0, 0]);
        config[34..].copy_from_slice(&[5, 0]);
        let plain = geometry("x".into(), VERSION_1, &config).unwrap();
        assert_eq!((plain.size_bytes, plain.block_size, plain.max_queues), (259 * 512, 512, 1));
        let full = geometry("x".into(), BLK_SIZE | READ_ONLY | MULTI_QUEUE, &config).unwrap();
        assert_eq!(
            (full.block_size, full.max_queues, full.read_only, plain.read_only),
            (4096, 5, true, false)
        );
        for queues in [[0, 0], [0xFF, 0xFF]] {
            config[34..].copy_from_slice(&queues);
            let max_queues = geometry("x".into(), MULTI_QUEUE, &config).unwrap().max_queues;
            assert_eq!(max_queues, if queues[0] == 0 { 1 } else { MAX_QUEUES });
        }
        config[..8].fill(0xFF);
        assert_eq!(geometry("x".into(), 0, &config).unwrap().size_bytes, u64::MAX);
        for size in [[0, 0, 0, 0], [0, 1, 0, 0], [1, 16, 0, 0], [0, 0, 2, 0]] {
            config[20..24].copy_from_slice(&size);
            let error = geometry("x:y".into(), BLK_SIZE, &config).unwrap_err().to_string();
            assert!(error.contains("x:y: its block size is"), "{error}");
        }
    }

    #[test]
    fn depths_and_queues_that_cannot_be_are_told() {
        let device = geometry("x:y".into(), 0, &[0; CONFIG_BYTES]).unwrap();
        for (depth, queues, want) in [
            (0, 1, "--qd 0: allowed: 1 to 4096"),
            (4097, 1, "--qd 4097: allowed"),
            (1, 0, "--queues 0: it offers 1"),
            (1, 2, "--queues 2: it offers 1 queue(s)"),
        ] {
            let options = RingOptions { depth, queues, ..ALL };
            let result = options.check_depth("x:y").and_then(|()| options.check_queues(&device, "it"));
            let error = result.unwrap_err().to_string();
            assert!(error.contains("x:y: ") && error.contains(want), "{error}");
        }
        assert!(ALL.check_depth("").and(ALL.check_queues(&device, "")).is_ok());
    }
}
