//! The core's io_uring: every leaf of every bdev stack on this core submits through it.
//!
//! ```text
//!   leaf ──push(owner, tag, sqe)──► SQ ─┐                        ┌─► inbox[owner] ──take──► leaf
//!                                       └─ enter() once per ─────┘
//!                                          reactor iteration
//! ```
//!
//! A leaf registers as an *owner* with the greatest number of operations that it will ever have in flight;
//! completions are sorted into the owner's inbox, sized for that number, so that nothing on this road
//! allocates or fails for want of room. The ring is made with SINGLE_ISSUER, DEFER_TASKRUN and TASKRUN_FLAG: an
//! iteration with nothing to submit and nothing completed makes no syscall. Buffers and files are registered
//! in tables of fixed size; a full table is no error, the I/O just goes without.
//!
//! # Polled devices
//! A device with poll queues completes without interrupts, but only in an io_uring made for that (IOPOLL), which in turn
//! takes nothing but reads and writes of such devices. A leaf with one asks for it ([`Ring::start_polling`]) and sends reads
//! and writes there ([`Ring::push_polled`]); all else stays the same: one `enter` serves both, registered buffers and files
//! have the same index in both, completions reach the same inboxes. While anything is in flight there, each `enter`
//! makes a system call, which is what looks at the device.

mod instance;
mod polled;
mod registered;

use std::os::fd::RawFd;

use io_uring::squeue;
use tracing::warn;

pub use self::registered::{BufId, FileId, RingFile, fixed_file, plain_file};

use self::instance::Instance;
use self::registered::{BUFFER_SLOTS, BufferTable, FILE_SLOTS};
use crate::Error;

/// Names the leaf that an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerId(u16);

/// A completed operation: the owner's tag and the kernel's result (`-errno` on failure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The tag given to [`Ring::push`].
    pub tag: u32,
    /// What the system call would have returned, or `-errno`.
    pub result: i32,
}

/// What the ring did so far; all counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingCounters {
    /// io_uring_enter system calls.
    pub enters: u64,
    /// Operations handed to the kernel.
    pub submitted: u64,
    /// Operations completed.
    pub completed: u64,
}

struct Owner {
    inbox: Vec<Completion>,
    depth: usize,
    in_flight: usize,
}

/// One core's io_uring with its registered files and buffers. Not `Send`: its core's thread made it and keeps it.
pub struct Ring {
    entries: u32,
    main: Instance,
    /// Made when a leaf first asks for it.
    polled: Option<Box<Instance>>,
    /// The kernel refused it, or something that it needs: nothing more is sent there.
    polling_given_up: bool,
    owners: Vec<Option<Owner>>,
    buffers: BufferTable,
    /// Whether the kernel has refused a buffer already.
    buffer_refused: bool,
    files: Vec<Option<RawFd>>,
    not_send: std::marker::PhantomData<*mut ()>,
}

impl Ring {
    /// Makes a ring with `entries` submission slots (rounded up to a power of two by the kernel) and four times as
    /// many completion slots. Must be called on the thread that will use it.
    ///
    /// # Errors
    /// [`Error::RingSetup`] when the kernel refuses: too old (< 6.1), io_uring blocked by seccomp or sysctl, or
    /// not enough lockable memory.
    pub fn new(entries: u32) -> Result<Self, Error> {
        let main = Instance::new(entries, false).map_err(|source| Error::RingSetup { entries, source })?;
        let buffer_slots = match main.make_buffer_table(BUFFER_SLOTS) {
            Ok(()) => BUFFER_SLOTS,
            Err(e) => {
                warn!("io_uring: no table of registered buffers ({e}); every I/O will pin its pages anew");
                0
            }
        };
        let file_slots = match main.make_file_table(FILE_SLOTS) {
            Ok(()) => FILE_SLOTS,
            Err(e) => {
                warn!("io_uring: no table of registered files ({e}); every I/O will look its file up");
                0
            }
        };
        Ok(Self {
            entries,
            main,
            polled: None,
            polling_given_up: false,
            owners: Vec::new(),
            buffers: BufferTable((0..buffer_slots).map(|_| None).collect()),
            buffer_refused: false,
            files: vec![None; file_slots],
            not_send: std::marker::PhantomData,
        })
    }

    /// Registers a leaf that will have at most `depth` operations in flight. Control path: allocates.
    ///
    /// # Errors
    /// [`Error::TooManyOwners`] past 65,535 leaves on one core.
    pub fn register_owner(&mut self, depth: usize) -> Result<OwnerId, Error> {
        let owner = Owner { inbox: Vec::with_capacity(depth), depth, in_flight: 0 };
        let index = match self.owners.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.owners.push(None);
                self.owners.len() - 1
            }
        };
        let id = u16::try_from(index).map_err(|_| Error::TooManyOwners)?;
        self.owners[index] = Some(owner);
        let depth = self.depth();
        self.main.reserve(depth);
        if let Some(polled) = &mut self.polled {
            polled.reserve(depth);
        }
        Ok(OwnerId(id))
    }

    /// The most operations that all leaves together may have in flight.
    fn depth(&self) -> usize {
        self.owners.iter().flatten().map(|owner| owner.depth).sum()
    }

    /// Gives an owner's place back. Call it with nothing in flight; an owner with operations in flight keeps its
    /// place, so that late completions reach nobody else.
    pub fn release_owner(&mut self, id: OwnerId) {
        if let Some(slot) = self.owners.get_mut(usize::from(id.0))
            && slot.as_ref().is_some_and(|owner| owner.in_flight == 0)
        {
            *slot = None;
        }
    }

    /// Queues one operation; it reaches the kernel with the next [`Ring::enter`]. `entry`'s user data is overwritten.
    ///
    /// # Safety
    /// All memory and descriptors that `entry` names must stay valid until its completion was taken, and a
    /// registered buffer or file that it names until then too. (The kernel has read iovec arrays and the like
    /// when `enter` returns, but `enter` may come late, so they too must stay until completion.)
    ///
    /// # Panics
    /// In debug builds when `owner` exceeds the depth it registered.
    #[inline]
    pub unsafe fn push(&mut self, owner: OwnerId, tag: u32, entry: squeue::Entry) {
        let entry = self.stamped(owner, tag, entry);
        // SAFETY: our caller's contract is the same.
        unsafe { self.main.push(entry) };
    }

    /// Queues a read or write of an O_DIRECT file in the polled ring. Returns whether it went there: without one (never
    /// asked for, or given up) it goes the way of [`Ring::push`]. The kernel refuses it (EOPNOTSUPP, EINVAL) where the
    /// device has no poll queues.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    #[inline]
    pub unsafe fn push_polled(&mut self, owner: OwnerId, tag: u32, entry: squeue::Entry) -> bool {
        let entry = self.stamped(owner, tag, entry);
        let (instance, polled) = match &mut self.polled {
            Some(polled) if !self.polling_given_up => (&mut **polled, true),
            _ => (&mut self.main, false),
        };
        // SAFETY: our caller's contract is the same.
        unsafe { instance.push(entry) };
        polled
    }

    /// Counts an operation in and puts its name on it.
    #[inline]
    fn stamped(&mut self, owner: OwnerId, tag: u32, entry: squeue::Entry) -> squeue::Entry {
        if let Some(Some(owner)) = self.owners.get_mut(usize::from(owner.0)) {
            debug_assert!(owner.in_flight < owner.depth, "owner over its depth of {}", owner.depth);
            owner.in_flight += 1;
        }
        entry.user_data(u64::from(owner.0) << 32 | u64::from(tag))
    }

    /// One step of the ring: submits what was queued and sorts completions into the inboxes. Makes a system call only
    /// when there is something to submit, the kernel says that completions wait for one, or a device is to be polled.
    /// Returns how many completed.
    ///
    /// # Errors
    /// [`Error::RingEnter`] when the kernel refuses for a reason that trying again does not mend.
    #[inline]
    pub fn enter(&mut self) -> Result<usize, Error> {
        let owners = &mut self.owners;
        let reaped = self.main.step(|user_data, result| deliver(owners, user_data, result));
        let Some(polled) = &mut self.polled else { return reaped };
        // Whatever became of the one, the other is served.
        let polled = polled.step_polled(|user_data, result| deliver(owners, user_data, result));
        Ok(reaped? + polled?)
    }

    /// An owner's completions, oldest first: take them out and leave the vector empty, with its capacity.
    #[inline]
    pub fn inbox(&mut self, owner: OwnerId) -> Option<&mut Vec<Completion>> {
        match self.owners.get_mut(usize::from(owner.0)) {
            Some(Some(owner)) => Some(&mut owner.inbox),
            _ => None,
        }
    }

    /// Operations pushed whose completions were not reaped yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.main.in_flight() + self.polled.as_ref().map_or(0, |polled| polled.in_flight())
    }

    /// The ring's counters, polled and not.
    #[must_use]
    pub fn counters(&self) -> RingCounters {
        let main = self.main.counters();
        let polled = self.polled.as_ref().map_or_else(RingCounters::default, |polled| polled.counters());
        RingCounters {
            enters: main.enters + polled.enters,
            submitted: main.submitted + polled.submitted,
            completed: main.completed + polled.completed,
        }
    }

    /// Whether this kernel's io_uring knows the operation `opcode` (`io_uring::opcode::X::CODE`).
    #[must_use]
    pub fn supports(&self, opcode: u8) -> bool {
        self.main.supports(opcode)
    }
}

/// Puts a completion where its owner finds it.
#[inline]
fn deliver(owners: &mut [Option<Owner>], user_data: u64, result: i32) {
    if let Some(Some(owner)) = owners.get_mut((user_data >> 32) as usize) {
        owner.in_flight -= 1;
        owner.inbox.push(Completion { tag: user_data as u32, result });
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
