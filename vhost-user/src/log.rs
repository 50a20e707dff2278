//! The memory that the client keeps for us across our death: one in-flight log per queue.
//!
//! ```text
//!   GET_INFLIGHT_FD: a new memfd ──► client keeps it
//!   SET_INFLIGHT_FD: client's file ──► mapped:  │ queue 0 │ queue 1 │ ... │      each InFlightLog::region_len_bytes
//! ```
//! A client hands back what it got, or, after we died, what our predecessor gave it; or anything else. The file is mapped
//! under the same guard as the client's memory, because it may be any file and may be made shorter.

use std::fs::File;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use spinblk_virtio::{InFlightError, InFlightLog, RingKind};
use vhost::vhost_user::message::VhostUserInflight;

use crate::mapping::Mapping;

/// What logs are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: RingKind,
    pub(crate) queues: u16,
    pub(crate) queue_size: u16,
}

/// The logs of one client's queues.
pub(crate) struct Logs {
    shape: Shape,
    mapping: Arc<Mapping>,
}

impl Shape {
    /// What the client's message asks for, on a disk with `queues` of up to `most` entries.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence about the log.
    pub(crate) fn of(
        message: &VhostUserInflight,
        kind: RingKind,
        queues: usize,
        most: u16,
    ) -> Result<Self, String> {
        let VhostUserInflight { num_queues, queue_size, .. } = *message;
        if num_queues == 0 || usize::from(num_queues) > queues {
            return Err(format!("is for {num_queues} queues, the disk has {queues}"));
        }
        if !(1..=most).contains(&queue_size) {
            return Err(format!("is for queues of {queue_size} entries, 1 to {most} are possible"));
        }
        Ok(Self { kind, queues: num_queues, queue_size })
    }

    fn region_len_bytes(self) -> usize {
        InFlightLog::region_len_bytes(self.kind, self.queue_size)
    }

    fn len_bytes(self) -> u64 {
        self.region_len_bytes() as u64 * u64::from(self.queues)
    }

    /// Memory for such logs, empty, that nobody can make shorter, and the message that goes with it.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn allocate(self) -> nix::Result<(VhostUserInflight, File)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(c"spinblk-in-flight", flags)?);
        nix::unistd::ftruncate(&file, self.len_bytes() as i64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok((VhostUserInflight::new(self.len_bytes(), 0, self.queues, self.queue_size), file))
    }
}

impl Logs {
    /// Maps what the client hands over; `wake` is written to if it goes away.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence about the log.
    pub(crate) fn new(
        shape: Shape,
        message: &VhostUserInflight,
        file: &File,
        wake: &Arc<EventFd>,
    ) -> Result<Self, String> {
        let VhostUserInflight { mmap_size, mmap_offset, .. } = *message;
        let need_bytes = shape.len_bytes();
        if mmap_size < need_bytes {
            return Err(format!("has {mmap_size} bytes; {need_bytes} are needed for {shape:?}"));
        }
        if !mmap_offset.is_multiple_of(align_of::<u64>() as u64) {
            return Err(format!("begins at the odd offset {mmap_offset:#x} of its file"));
        }
        let mapping = Mapping::new(file, mmap_offset, need_bytes, wake)?;
        Ok(Self { shape, mapping: Arc::new(mapping) })
    }

    /// The log of queue `index`, if it has one.
    ///
    /// # Errors
    /// [`InFlightError`] when it was written by somebody else, for something else.
    pub(crate) fn of_queue(&self, index: usize) -> Result<Option<InFlightLog>, InFlightError> {
        if index >= usize::from(self.shape.queues) {
            return Ok(None);
        }
        let Shape { kind, queue_size, .. } = self.shape;
        let len_bytes = self.shape.region_len_bytes();
        let host = self.mapping.as_ptr().wrapping_add(index * len_bytes);
        let keep = Arc::clone(&self.mapping);
        // SAFETY: `new` mapped `len_bytes` for each of `queues` queues, for as long as `mapping` lives (with zero pages,
        // should the file be cut), and nothing makes a Rust reference into them.
        unsafe { InFlightLog::new(kind, host, len_bytes, queue_size, keep) }.map(Some)
    }

    /// The format of the rings that they are for.
    pub(crate) fn kind(&self) -> RingKind {
        self.shape.kind
    }

    /// Forgets what was in flight: the driver has. Logs that are not understood are left to be refused later.
    pub(crate) fn erase(&self) {
        for index in 0..usize::from(self.shape.queues) {
            if let Ok(Some(log)) = self.of_queue(index) {
                log.erase();
            }
        }
    }

    /// Whether the file no longer holds them.
    pub(crate) fn is_gone(&self) -> bool {
        self.mapping.is_gone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(queues: u16, queue_size: u16) -> VhostUserInflight {
        VhostUserInflight::new(0, 0, queues, queue_size)
    }

    #[test]
    fn memory_for_logs_is_empty_sealed_and_long_enough() {
        let shape = Shape::of(&message(3, 100), RingKind::Split, 4, 256).unwrap();
        let (reply, file) = shape.allocate().unwrap();
        assert_eq!((reply.num_queues, reply.queue_size, reply.mmap_offset), (3, 100, 0));
        assert_eq!(reply.mmap_size, 3 * (16u64 + 16 * 100).next_multiple_of(64));
        assert_eq!(file.metadata().unwrap().len(), reply.mmap_size);
        assert!(file.set_len(0).is_err() && file.set_len(1 << 20).is_err());
        let packed = Shape { kind: RingKind::Packed, ..shape };
        assert_eq!(packed.len_bytes(), 3 * (32u64 + 32 * 100).next_multiple_of(64));
        let logs = Logs::new(shape, &reply, &file, &Arc::new(EventFd::new().unwrap())).unwrap();
        assert!(logs.of_queue(2).unwrap().is_some() && logs.of_queue(3).unwrap().is_none());
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for (queues, queue_size) in [(0, 8), (5, 8), (1, 0), (1, 257), (u16::MAX, u16::MAX)] {
            assert!(Shape::of(&message(queues, queue_size), RingKind::Packed, 4, 256).is_err());
        }
        let shape = Shape { kind: RingKind::Split, queues: 1, queue_size: 8 };
        let (reply, file) = shape.allocate().unwrap();
        let wake = Arc::new(EventFd::new().unwrap());
        let bad = [
            (0, 0, "has 0 bytes"),
            (reply.mmap_size - 1, 0, "are needed"),
            (reply.mmap_size, 64, "ends at byte"),
            (reply.mmap_size, 4, "odd offset"),
            (u64::MAX, !7, "wraps"),
        ];
        for (size, offset, expected) in bad {
            let message = VhostUserInflight::new(size, offset, 1, 8);
            let reason = Logs::new(shape, &message, &file, &wake).err().unwrap();
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn erased_logs_are_fresh_again() {
        let shape = Shape { kind: RingKind::Split, queues: 1, queue_size: 8 };
        let (reply, file) = shape.allocate().unwrap();
        let logs = Logs::new(shape, &reply, &file, &Arc::new(EventFd::new().unwrap())).unwrap();
        let version = |number: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, number, 8).unwrap();
        version(&[1, 0, 9, 0]);
        assert!(matches!(logs.of_queue(0), Err(InFlightError::WrongSize { found: 9, wanted: 8 })));
        version(&[1, 0, 8, 0]);
        logs.erase();
        let mut bytes = [1; 2];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 8).unwrap();
        assert_eq!(bytes, [0; 2]);
    }
}
