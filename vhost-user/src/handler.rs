//! The client's messages, one method each. The vhost crate has read and framed them; everything they say is checked here.

use std::fs::File;
use std::time::Instant;

use spinblk_virtio::RingKind;
use tracing::debug;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{GpuBackend, Result, VhostUserBackendReqHandlerMut};

use crate::Error;
use crate::log::Logs;
use crate::memory::{MAX_SLOTS, Place};
use crate::queue::DRAIN_TIMEOUT;
use crate::session::Session;
use crate::vring::UserRing;

/// The client's address of its own memory; nobody here needs it.
type UserAddress = u64;

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(self.reset()?)
    }

    fn reset_device(&mut self) -> Result<()> {
        Ok(self.reset()?)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.check_features("virtio", features, self.offered())?;
        debug!("disk {}: the client accepts features {features:#x}", self.disk.name);
        Ok(self.accept_features(features)?)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<UserAddress>>> {
        self.change_memory(|memory| {
            memory.clear();
            regions.iter().zip(&files).try_for_each(|(region, file)| memory.add(Place::from(*region), file))
        })?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.check_stopped(index, "size")?;
        let (name, most) = (self.disk.name.clone(), self.disk.queue_size);
        let packed = self.negotiated().kind == RingKind::Packed;
        let allowed = |size: &u16| (1..=most).contains(size) && (packed || size.is_power_of_two());
        match u16::try_from(num).ok().filter(allowed) {
            Some(size) => self.queue(index)?.vring.size = Some(size),
            None => {
                let form = if packed { "up to" } else { "a power of two up to" };
                let reason = format!(
                    "the client asks for {num} entries; {form} {most} is wanted (`queue_size` is the limit)"
                );
                return Err(Error::Vring { name, queue: index as usize, reason }.into());
            }
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        desc: u64,
        used: u64,
        avail: u64,
        _log: u64,
    ) -> Result<()> {
        let ring = Some(UserRing { desc, avail, used });
        if self.queue(index)?.vring.ring != ring {
            // A ring that moves goes on where it stood.
            let queue = &mut self.queues[index as usize];
            queue.stop(&self.disk, Instant::now() + DRAIN_TIMEOUT)?;
            queue.vring.ring = ring;
        }
        Ok(self.settle(index)?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.check_stopped(index, "base")?;
        let kind = self.negotiated().kind;
        if kind == RingKind::Split && u16::try_from(base).is_err() {
            let (name, queue) = (self.disk.name.clone(), index as usize);
            let reason = format!("the client's base {base:#x} is not an index of a split ring");
            return Err(Error::Vring { name, queue, reason }.into());
        }
        self.queue(index)?.vring.set_base(kind, base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.queue(index)?.vring.kicked = false;
        self.settle(index)?;
        let kind = self.negotiated().kind;
        Ok(VhostUserVringState::new(index, self.queue(index)?.vring.tell_base(kind)))
    }

    /// The queue is polled, so kicks are suppressed and the descriptor is not kept; the message starts the ring.
    fn set_vring_kick(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.queue(index.into())?.vring.kicked = true;
        Ok(self.settle(index.into())?)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.queue(index.into())?;
        let fd = fd.map(|file| self.eventfd(index.into(), file)).transpose()?;
        Ok(self.queues[usize::from(index)].set_call(&self.disk, fd)?)
    }

    /// A broken ring is told of in our log; the descriptor is not kept.
    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> Result<()> {
        self.queue(index.into())?;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(Self::protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        self.check_features("protocol", features, Self::protocol_features().bits())?;
        self.protocol = VhostUserProtocolFeatures::from_bits_truncate(features);
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.queues.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.queue(index)?.vring.enabled = enable;
        Ok(self.settle(index)?)
    }

    /// Exactly as many bytes as asked for: what lies behind the fields that we know is zero.
    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let space = self.disk.blk.config_space();
        Ok((offset..offset.saturating_add(size))
            .map(|at| space.get(at as usize).copied().unwrap_or(0))
            .collect())
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        let (name, len_bytes) = (self.disk.name.clone(), bytes.len());
        Err(Error::ConfigSpace { name, what: "writes, which nothing of it allows,", offset, len_bytes }
            .into())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_SLOTS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<UserAddress>> {
        self.memory.add(Place::from(**region), &file)?;
        self.memory_grew()?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        Ok(self.change_memory(|memory| memory.remove(Place::from(**region)))?)
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        self.not_offered("GPU_SET_SOCKET")
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        self.not_offered("GET_SHARED_OBJECT")
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let shape = self.log_shape(wanted)?;
        let bad = |e| self.bad_log(format!("cannot be allocated: {e}"));
        Ok(shape.allocate().map_err(bad)?)
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        if self.queues.iter().any(crate::queue::Queue::is_running) {
            return Err(self.bad_log("is changed while queues run".into()).into());
        }
        let shape = self.log_shape(given)?;
        let logs = Logs::new(shape, given, &file, &self.disk.events.wake);
        self.logs = Some(logs.map_err(|reason| self.bad_log(reason))?);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        self.not_offered("SET_DEVICE_STATE_FD")
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.not_offered("CHECK_DEVICE_STATE")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.not_offered("GET_SHMEM_CONFIG")
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        self.not_offered("SET_LOG_BASE")
    }
}
