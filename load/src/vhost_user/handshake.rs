//! The conversation with the server, before the load: features, size, memory. Each step names itself when it fails.

use std::path::Path;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use virtio_bindings::{virtio_blk as blk, virtio_config, virtio_ring};

use super::session::VhostUserOptions;
use crate::ring::layout::MAX_DEPTH;
use crate::ring::memory::SharedMemory;
use crate::{Error, Geometry, RingFormat};

/// Queues of one server that the generator uses at most.
pub(super) const MAX_QUEUES: u16 = 64;
/// Config space up to the number of queues (5.2.4): all that is looked at.
const CONFIG_BYTES: usize = 36;
const SECTOR_BYTES: u64 = 512;

const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
const INDIRECT_DESC: u64 = 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
const RING_PACKED: u64 = 1 << virtio_config::VIRTIO_F_RING_PACKED;
/// What nothing works without.
const NEEDED: u64 =
    VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() | 1 << virtio_config::VIRTIO_F_VERSION_1;

const WANTED_PROTOCOL: Protocol = Protocol::MQ.union(Protocol::REPLY_ACK).union(Protocol::CONFIG);

/// What the server said of itself.
pub(super) struct Offer {
    features: u64,
    pub(super) event_idx: bool,
    /// Whether it answers every message.
    pub(super) answers: bool,
    max_queues: u16,
}

/// The steps, to the server at `path`.
pub(super) struct Steps<'a> {
    pub(super) path: &'a Path,
}

impl Steps<'_> {
    pub(super) fn failed(&self, step: &'static str) -> impl Fn(vhost::Error) -> Error {
        move |source| Error::Protocol { path: self.path.into(), step, source: Box::new(source) }
    }

    fn lacks(&self, lacks: String) -> Error {
        Error::Feature { path: self.path.into(), lacks }
    }

    pub(super) fn negotiate(
        &self,
        mut frontend: Frontend,
        options: &VhostUserOptions,
    ) -> Result<(Frontend, Offer), Error> {
        frontend.set_owner().map_err(self.failed("set_owner"))?;
        let features = frontend.get_features().map_err(self.failed("get_features"))?;
        if features & NEEDED != NEEDED {
            let lacks = "it must offer VIRTIO_F_VERSION_1 and protocol features";
            return Err(self.lacks(format!("{lacks}; it offers the features {features:#x}")));
        }
        let offered = frontend.get_protocol_features().map_err(self.failed("get_protocol_features"))?;
        if !offered.contains(Protocol::CONFIG) {
            let lacks = "it does not tell its size (protocol feature CONFIG)";
            return Err(self.lacks(format!("{lacks}; it offers {offered:?}")));
        }
        let protocol = offered & WANTED_PROTOCOL;
        frontend.set_protocol_features(protocol).map_err(self.failed("set_protocol_features"))?;
        if protocol.contains(Protocol::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let max_queues = if protocol.contains(Protocol::MQ) {
            frontend.get_queue_num().map_err(self.failed("get_queue_num"))?
        } else {
            1
        };
        let (must, may) = feature_bits(options);
        if features & must != must {
            let lacks = missing(options, features);
            return Err(self.lacks(format!("{lacks}; it offers the features {features:#x}")));
        }
        let features = features & (must | may);
        frontend.set_features(features).map_err(self.failed("set_features"))?;
        let max_queues = u16::try_from(max_queues).unwrap_or(MAX_QUEUES).min(MAX_QUEUES);
        let event_idx = features & EVENT_IDX != 0;
        Ok((
            frontend,
            Offer { features, event_idx, answers: protocol.contains(Protocol::REPLY_ACK), max_queues },
        ))
    }

    pub(super) fn read_config(
        &self,
        mut frontend: Frontend,
        offer: &Offer,
    ) -> Result<(Frontend, Geometry), Error> {
        let (_, config) = frontend
            .get_config(0, CONFIG_BYTES as u32, VhostUserConfigFlags::empty(), &[0; CONFIG_BYTES])
            .map_err(self.failed("get_config"))?;
        let has = |bit: u32| offer.features & (1 << bit) != 0;
        let field = |offset: usize, len: usize| -> u64 {
            // The crate has checked that as many bytes came as were asked for.
            config.iter().skip(offset).take(len).rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let block_size = if has(blk::VIRTIO_BLK_F_BLK_SIZE) { field(20, 4) as u32 } else { 512 };
        if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
            return Err(
                self.lacks(format!("its block size is {block_size}; a power of two from 512 is wanted"))
            );
        }
        let queues = if has(blk::VIRTIO_BLK_F_MQ) { field(34, 2) as u16 } else { 1 };
        let geometry = Geometry {
            name: "".into(),
            size_bytes: field(0, 8).saturating_mul(SECTOR_BYTES),
            block_size,
            read_only: has(blk::VIRTIO_BLK_F_RO),
            interrupts: true,
            max_queues: queues.min(offer.max_queues).max(1),
            max_depth: MAX_DEPTH,
        };
        Ok((frontend, geometry))
    }

    pub(super) fn share(&self, frontend: &Frontend, memory: &SharedMemory) -> Result<(), Error> {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: memory.guest_address(0),
            memory_size: memory.len_bytes() as u64,
            userspace_addr: memory.user_address(0),
            mmap_offset: 0,
            mmap_handle: memory.fd(),
        };
        frontend.set_mem_table(&[region]).map(drop).map_err(self.failed("set_mem_table"))
    }
}

/// The features that must be offered for these options, and those that are used if they are.
fn feature_bits(options: &VhostUserOptions) -> (u64, u64) {
    let mut must = NEEDED;
    if options.format == RingFormat::Packed {
        must |= RING_PACKED;
    }
    if options.indirect {
        must |= INDIRECT_DESC;
    }
    let mut may =
        (1 << blk::VIRTIO_BLK_F_BLK_SIZE) | (1 << blk::VIRTIO_BLK_F_RO) | (1 << blk::VIRTIO_BLK_F_MQ);
    if options.event_idx {
        may |= EVENT_IDX;
    }
    (must, may)
}

/// What the options want that is not among `features`.
fn missing(options: &VhostUserOptions, features: u64) -> &'static str {
    match options.format {
        RingFormat::Packed if features & RING_PACKED == 0 => {
            "--ring packed: it does not offer VIRTIO_F_RING_PACKED; take --ring split"
        }
        _ => "--indirect: it does not offer VIRTIO_RING_F_INDIRECT_DESC; leave it out",
    }
}
