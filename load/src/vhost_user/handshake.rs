//! The conversation with the server, before the load: features, size, memory. Each step names itself when it fails.

use std::path::Path;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures as Protocol, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

use crate::ring::memory::SharedMemory;
use crate::virtio_blk::{self, CONFIG_BYTES, EVENT_IDX, MAX_QUEUES, VERSION_1};
use crate::{Error, Geometry, RingOptions};

/// The feature that says that there are protocol features.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// What nothing works without.
const NEEDED: u64 = PROTOCOL_FEATURES | VERSION_1;
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
    /// Its name as a target.
    pub(super) name: &'a Arc<str>,
}

impl Steps<'_> {
    pub(super) fn failed(&self, step: &'static str) -> impl Fn(vhost::Error) -> Error {
        move |source| Error::Protocol { path: self.path.into(), step, source: Box::new(source) }
    }

    fn lacks(&self, lacks: String) -> Error {
        Error::Feature { target: self.name.to_string(), lacks }
    }

    pub(super) fn negotiate(
        &self,
        mut frontend: Frontend,
        options: &RingOptions,
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
        let features = virtio_blk::features(self.name, features, PROTOCOL_FEATURES, options)?;
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
        // The crate has checked that as many bytes came as were asked for.
        let mut geometry = virtio_blk::geometry(self.name.clone(), offer.features, &config)?;
        geometry.max_queues = geometry.max_queues.min(offer.max_queues).max(1);
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
