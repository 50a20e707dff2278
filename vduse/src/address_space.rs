//! IOVA space of one device as we have mapped it: found lazily, forgotten when the kernel says so.
//!
//! ```text
//!   iova ──► already mapped? ──► IOTLB_GET_INFO: bounce region? ── yes ──► our hugepages, REG_UMEM ─┐
//!                                             └── no ──► IOTLB_GET_FD, mmap ───────────────────────┴─► MemoryMap
//! ```
//!
//! With virtio-vdpa the bounce region appears with the first request. The kernel then takes our own memory as its
//! bounce pages (umem), so that aio reads and writes go straight between those pages and the disk. With vhost-vdpa, regions
//! are the guest's memory. Registered memory stays registered until the device is closed, so that it outlives resets.

use std::fs::File;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use spinblk_reactor::{Hugepages, Memory};
use spinblk_virtio::{MemoryMap, Region};
use tracing::{debug, warn};

use crate::Error;
use crate::device::{Device, IotlbEntry};

/// Regions shorter than this hold rings, not data: they are not worth a registered buffer.
const DATA_REGION_BYTES: u64 = 64 << 10;

/// A mapping of a region's file.
struct Mapping(MmapRaw);

/// The bounce region in memory of ours.
struct Umem {
    memory: Arc<Memory>,
    iova: u64,
}

/// What is mapped of one device's IOVA space.
pub(crate) struct AddressSpace {
    device: Arc<Device>,
    hugepages: Hugepages,
    map: Arc<MemoryMap>,
    umem: Option<Umem>,
    umem_refused: bool,
}

impl AddressSpace {
    pub(crate) fn new(device: Arc<Device>, hugepages: Hugepages) -> Self {
        Self { device, hugepages, map: Arc::default(), umem: None, umem_refused: false }
    }

    /// What is mapped now.
    pub(crate) fn map(&self) -> Arc<MemoryMap> {
        self.map.clone()
    }

    /// Whether the kernel bounces through our memory.
    pub(crate) fn has_umem(&self) -> bool {
        self.umem.is_some()
    }

    /// Forgets all mappings (not the registered memory). Queues that hold the old map keep it alive until they stop.
    pub(crate) fn forget(&mut self) {
        self.map = Arc::default();
        // A refusal may have come from a reset that was under way; the next life asks again.
        self.umem_refused = false;
    }

    /// Maps the region that holds `iova`; false when the kernel has none there, or none that can be read and written.
    pub(crate) fn resolve(&mut self, iova: u64) -> Result<bool, Error> {
        if self.map.contains(iova) {
            return Ok(true);
        }
        let region = match self.bounce_region(iova)? {
            Some(region) => region,
            None => match self.device.iotlb_get_fd(iova)? {
                Some((file, entry)) => match self.map_file(&File::from(file), entry)? {
                    Some(region) => region,
                    None => return Ok(false),
                },
                None => return Ok(false),
            },
        };
        self.map = Arc::new(self.map.with(region));
        Ok(self.map.contains(iova))
    }

    /// Maps all regions that there are now.
    pub(crate) fn resolve_all(&mut self) -> Result<(), Error> {
        let mut next = Some(0);
        while let Some(iova) = next {
            let Some(region) = self.device.iotlb_first(iova, u64::MAX)? else { break };
            self.resolve(region.start.max(iova))?;
            next = region.last.max(iova).checked_add(1);
        }
        Ok(())
    }

    /// The bounce region as memory of ours, if `iova` lies in it and the kernel takes our memory.
    fn bounce_region(&mut self, iova: u64) -> Result<Option<Region>, Error> {
        let Some(info) = self.device.iotlb_info(iova)? else { return Ok(None) };
        if !info.umem_capable || self.umem_refused {
            return Ok(None);
        }
        let len_bytes = region_len(info.start, info.last);
        if let Some(umem) = &self.umem {
            if umem.iova == info.start && umem.memory.len_bytes() as u64 == len_bytes {
                return Ok(Some(umem.region()));
            }
            // The kernel's own pages there are not to be touched while ours are registered.
            return Err(Error::BounceChanged { name: self.device.name().into(), len_bytes });
        }
        match self.register(info.start, len_bytes) {
            Ok(umem) => {
                debug!("{}: {len_bytes} bytes of bounce memory registered", self.device.name());
                let region = umem.region();
                self.umem = Some(umem);
                Ok(Some(region))
            }
            Err(e) => {
                warn!("{e}; going on with the kernel's own bounce pages (slower, no fixed buffers)");
                self.umem_refused = true;
                Ok(None)
            }
        }
    }

    fn register(&self, iova: u64, len_bytes: u64) -> Result<Umem, Error> {
        let name = self.device.name();
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let memory = Memory::new(len, self.hugepages, &format!("disk {name}, bounce memory"))
            .map_err(|source| Error::Reactor { name: name.into(), source })?;
        // SAFETY: the memory is page-aligned, at least `len` long, and kept in `Umem` until `close` took it back from the
        // kernel (or the device was closed, which does the same).
        unsafe { self.device.reg_umem(memory.as_ptr(), iova, len_bytes) }?;
        Ok(Umem { memory: Arc::new(memory), iova })
    }

    fn map_file(&self, file: &File, entry: IotlbEntry) -> Result<Option<Region>, Error> {
        if !(entry.readable && entry.writable) {
            debug!(
                "{}: region at {:#x} is not readable and writable: left unmapped",
                self.device.name(),
                entry.start
            );
            return Ok(None);
        }
        let len_bytes = region_len(entry.start, entry.last);
        let failed =
            |source| Error::Mapping { name: self.device.name().into(), iova: entry.start, len_bytes, source };
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut options = MmapOptions::new();
        options.offset(entry.offset).len(len);
        if len_bytes < DATA_REGION_BYTES {
            // Rings are touched by the reactor: their page faults are taken here.
            options.populate();
        }
        let mapping = options.map_raw(file).map_err(failed)?;
        let mapping = Arc::new(Mapping(mapping));
        let host = mapping.0.as_mut_ptr();
        // SAFETY: `len` bytes at `host` are mapped shared, readable and writable, for as long as `mapping` lives; nothing
        // makes a Rust reference into them.
        let region =
            unsafe { Region::new(entry.start, len_bytes, host, len_bytes >= DATA_REGION_BYTES, mapping) };
        Ok(Some(region))
    }

    /// Takes registered memory back from the kernel, when no queue runs any more. With I/O still out (`hanging`) it is
    /// left to the end of the process: the storage may yet write into it.
    pub(crate) fn close(&mut self, hanging: bool) {
        self.forget();
        let Some(umem) = self.umem.take() else { return };
        if hanging {
            std::mem::forget(umem);
        } else if let Err(e) = self.device.dereg_umem(umem.iova, umem.memory.len_bytes() as u64) {
            // The kernel drops it with the last close of the device, which follows.
            debug!("{e}");
            std::mem::forget(umem);
        }
    }
}

/// Bytes of a region; one that spans all addresses is a byte short.
fn region_len(first: u64, last: u64) -> u64 {
    last.saturating_sub(first).saturating_add(1)
}

impl Umem {
    fn region(&self) -> Region {
        let len_bytes = self.memory.len_bytes() as u64;
        // SAFETY: the memory is mapped for as long as the `Arc` in the region lives, and only raw pointers reach into it.
        unsafe { Region::new(self.iova, len_bytes, self.memory.as_ptr(), true, self.memory.clone()) }
    }
}
