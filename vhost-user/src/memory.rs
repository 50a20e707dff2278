//! The client's memory: what it shares, where the guest sees it, and where the client itself does.
//!
//! ```text
//!   slot:   guest address ──┐
//!           client address ─┼─ len_bytes ──► file at offset ──► mapped here
//!                           │
//!   data and ring addresses in descriptors are the guest's; SET_VRING_ADDR names rings by the client's.
//! ```
//!
//! A table is changed only while no queue runs on what goes away (the session sees to it); queues keep the mappings of
//! their own map alive in any case.

use std::fs::File;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use spinblk_virtio::{MemoryMap, Region};
use vhost::vhost_user::message::VhostUserMemoryRegion;

use crate::Error;
use crate::mapping::Mapping;

/// Regions that a client may share, one of each memory slot of a VM.
pub(crate) const MAX_SLOTS: usize = 128;
/// Regions shorter than this hold rings, not data: they are not worth a registered buffer.
const DATA_REGION_BYTES: u64 = 64 << 10;

/// One region as the client describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) guest: u64,
    pub(crate) user: u64,
    pub(crate) len_bytes: u64,
    pub(crate) offset: u64,
}

impl From<VhostUserMemoryRegion> for Place {
    fn from(region: VhostUserMemoryRegion) -> Self {
        Self {
            guest: region.guest_phys_addr,
            user: region.user_addr,
            len_bytes: region.memory_size,
            offset: region.mmap_offset,
        }
    }
}

struct Slot {
    place: Place,
    mapping: Arc<Mapping>,
}

/// All regions of one client.
pub(crate) struct Table {
    name: String,
    wake: Arc<EventFd>,
    slots: Vec<Slot>,
    map: Arc<MemoryMap>,
}

impl Table {
    /// An empty table; `wake` is written to when mapped memory goes away.
    pub(crate) fn new(name: &str, wake: &Arc<EventFd>) -> Self {
        Self { name: name.into(), wake: Arc::clone(wake), slots: Vec::new(), map: Arc::default() }
    }

    /// The regions as queues see them.
    pub(crate) fn map(&self) -> Arc<MemoryMap> {
        Arc::clone(&self.map)
    }

    /// Maps one more region.
    ///
    /// # Errors
    /// [`Error::Region`]; the table is as it was.
    pub(crate) fn add(&mut self, place: Place, file: &File) -> Result<(), Error> {
        self.check(place).map_err(|reason| self.bad(place, reason))?;
        let mapping = Mapping::new(file, place.offset, place.len_bytes, &self.wake)
            .map_err(|reason| self.bad(place, reason))?;
        self.slots.push(Slot { place, mapping: Arc::new(mapping) });
        self.renew();
        Ok(())
    }

    /// Forgets a region. Its memory stays mapped for as long as a queue holds a map with it.
    ///
    /// # Errors
    /// [`Error::Region`] when there is none such.
    pub(crate) fn remove(&mut self, place: Place) -> Result<(), Error> {
        // Some clients leave the offset out when they take a region back.
        let same = |s: &Slot| Place { offset: place.offset, ..s.place } == place;
        let Some(index) = self.slots.iter().position(same) else {
            return Err(self.bad(place, "is not shared, so it cannot be taken back".into()));
        };
        self.slots.remove(index);
        self.renew();
        Ok(())
    }

    /// Forgets all regions.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.renew();
    }

    /// The guest's address of what the client has at `user`.
    pub(crate) fn guest_address(&self, user: u64) -> Option<u64> {
        let holds = |s: &&Slot| user.wrapping_sub(s.place.user) < s.place.len_bytes;
        self.slots.iter().find(holds).map(|s| s.place.guest + (user - s.place.user))
    }

    /// The error for a region that is no longer backed by its file, if there is one.
    pub(crate) fn gone(&self) -> Option<Error> {
        let slot = self.slots.iter().find(|slot| slot.mapping.is_gone())?;
        Some(Error::MemoryGone { name: self.name.clone(), guest: slot.place.guest })
    }

    fn check(&self, new: Place) -> Result<(), String> {
        if new.len_bytes == 0 {
            return Err("is empty".into());
        }
        for start in [new.guest, new.user, new.offset] {
            if start.checked_add(new.len_bytes).is_none() {
                return Err("wraps around the end of the address space".into());
            }
        }
        if self.slots.len() == MAX_SLOTS {
            return Err(format!("is one region more than the {MAX_SLOTS} that can be shared"));
        }
        for Slot { place: old, .. } in &self.slots {
            let meets = |a: u64, b: u64| a < b + old.len_bytes && b < a + new.len_bytes;
            if meets(new.guest, old.guest) || meets(new.user, old.user) {
                return Err(format!(
                    "overlaps the region at guest address {:#x}, {} bytes",
                    old.guest, old.len_bytes
                ));
            }
        }
        Ok(())
    }

    fn renew(&mut self) {
        let region = |slot: &Slot| {
            let Place { guest, len_bytes, .. } = slot.place;
            let (host, mapping) = (slot.mapping.as_ptr(), Arc::clone(&slot.mapping));
            // SAFETY: `Mapping::new` mapped `len_bytes` at `host`, readable and writable, for as long as `mapping` lives
            // (with zero pages, should the file be cut); nothing makes a Rust reference into them.
            unsafe { Region::new(guest, len_bytes, host, len_bytes >= DATA_REGION_BYTES, mapping) }
        };
        self.map = Arc::new(MemoryMap::new(self.slots.iter().map(region)));
    }

    fn bad(&self, place: Place, reason: String) -> Error {
        let Place { guest, len_bytes, .. } = place;
        Error::Region { name: self.name.clone(), guest, len_bytes, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    fn file(bytes: u64) -> File {
        let fd: OwnedFd = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(bytes).unwrap();
        file
    }

    fn table() -> Table {
        Table::new("d0", &Arc::new(EventFd::new().unwrap()))
    }

    fn place(guest: u64, user: u64, len_bytes: u64, offset: u64) -> Place {
        Place { guest, user, len_bytes, offset }
    }

    #[test]
    fn regions_are_mapped_at_any_offset_and_translated() {
        let mut table = table();
        let file = file(0x6000);
        table.add(place(0x1000, 0x7000_0000, 0x1234, 0x1010), &file).unwrap();
        table.add(place(0x10_0000, 0x8000_0000, 0x1000, 0x3000), &file).unwrap();
        assert_eq!(table.guest_address(0x7000_1233), Some(0x2233));
        assert_eq!(table.guest_address(0x7000_1234), None);
        assert_eq!(table.guest_address(0x8000_0000), Some(0x10_0000));
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x34, 0x12], 0x1010).unwrap();
        assert_eq!(table.map().read_u16(0x1000), Some(0x1234));
        table.remove(place(0x1000, 0x7000_0000, 0x1234, 0)).unwrap();
        assert!(!table.map().contains(0x1000) && table.map().contains(0x10_0000));
        assert!(table.remove(place(0x1000, 0x7000_0000, 0x1234, 0)).is_err());
    }

    #[test]
    fn bad_regions_are_refused_with_the_reason() {
        let mut table = table();
        let memory = file(0x4000);
        table.add(place(0x10_0000, 0x20_0000, 0x1000, 0), &memory).unwrap();
        let bad = [
            (place(0, 0, 0, 0), "empty"),
            (place(u64::MAX, 0, 2, 0), "wraps"),
            (place(0, u64::MAX, 2, 0), "wraps"),
            (place(0, 0, 2, u64::MAX), "wraps"),
            (place(0, 0, 0x1000, 0x3001), "file of 16384 bytes"),
            (place(0x10_0fff, 0, 1, 0), "overlaps"),
            (place(0, 0x1f_ffff, 2, 0), "overlaps"),
            (place(1 << 40, 1 << 40, u64::from(u32::MAX), 0), "file of 16384 bytes"),
        ];
        for (place, expected) in bad {
            let error = table.add(place, &memory).unwrap_err().to_string();
            assert!(error.contains("disk d0") && error.contains(expected), "{place:x?}: {error}");
        }
        let pipe = File::open("/dev/null").unwrap();
        assert!(table.add(place(0, 0, 0x1000, 0), &pipe).is_err());
        let error = table.add(place(0, 0, 1, 0), &File::open("/proc/self/exe").unwrap()).unwrap_err();
        assert!(error.to_string().contains("mapped") || error.to_string().contains("lies on"), "{error}");
        assert_eq!(table.map().regions().len(), 1);
    }

    #[test]
    fn memory_that_goes_away_reads_as_zeroes_and_is_reported() {
        let wake = Arc::new(EventFd::new().unwrap());
        let mut table = Table::new("d0", &wake);
        let file = file(0x2000);
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 0x2000], 0).unwrap();
        table.add(place(0, 0, 0x2000, 0), &file).unwrap();
        assert_eq!(table.map().read_u16(0x1000), Some(0x101));
        assert!(table.gone().is_none());
        file.set_len(0x1000).unwrap();
        assert_eq!(table.map().read_u16(0x1000), Some(0));
        assert!(table.gone().unwrap().to_string().contains("made shorter"));
        assert_eq!(wake.read().unwrap(), 1);
    }
}
