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

use std::os::fd::RawFd;

use io_uring::{IoUring, cqueue, squeue, types};
use tracing::warn;

use crate::Error;

/// Slots for registered buffers, each up to 1 GiB (kernel limit per buffer).
const BUFFER_SLOTS: usize = 256;
/// Slots for registered files.
const FILE_SLOTS: usize = 256;
/// The kernel's limit for one registered buffer.
const MAX_BUFFER_BYTES: usize = 1 << 30;

/// Index of a buffer in the ring's table of registered buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufId(pub u16);

/// Index of a file in the ring's table of registered files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub u32);

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

struct Buffer {
    addr: usize,
    len_bytes: usize,
    users: u32,
}

/// One core's io_uring with its registered files and buffers. Not `Send`: its core's thread made it and keeps it.
pub struct Ring {
    uring: IoUring,
    owners: Vec<Option<Owner>>,
    /// Entries that found the submission queue full; drained before anything newer.
    backlog: std::collections::VecDeque<squeue::Entry>,
    unsubmitted: u32,
    in_flight: usize,
    buffers: Vec<Option<Buffer>>,
    /// Whether the kernel has refused a buffer already.
    buffer_refused: bool,
    files: Vec<bool>,
    counters: RingCounters,
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
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(entries * 4)
            .build(entries)
            .map_err(|source| Error::RingSetup { entries, source })?;
        let buffer_slots = match uring.submitter().register_buffers_sparse(BUFFER_SLOTS as u32) {
            Ok(()) => BUFFER_SLOTS,
            Err(e) => {
                warn!("io_uring: no table of registered buffers ({e}); every I/O will pin its pages anew");
                0
            }
        };
        let file_slots = match uring.submitter().register_files_sparse(FILE_SLOTS as u32) {
            Ok(()) => FILE_SLOTS,
            Err(e) => {
                warn!("io_uring: no table of registered files ({e}); every I/O will look its file up");
                0
            }
        };
        Ok(Self {
            uring,
            owners: Vec::new(),
            backlog: std::collections::VecDeque::new(),
            unsubmitted: 0,
            in_flight: 0,
            buffers: (0..buffer_slots).map(|_| None).collect(),
            buffer_refused: false,
            files: vec![false; file_slots],
            counters: RingCounters::default(),
            not_send: std::marker::PhantomData,
        })
    }

    /// Registers a leaf that will have at most `depth` operations in flight. Control path: allocates.
    ///
    /// # Errors
    /// [`Error::TooManyOwners`] past 65,535 leaves on one core.
    pub fn register_owner(&mut self, depth: usize) -> Result<OwnerId, Error> {
        let owner = Owner { inbox: Vec::with_capacity(depth), depth, in_flight: 0 };
        self.backlog.reserve(depth);
        let index = match self.owners.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.owners.push(None);
                self.owners.len() - 1
            }
        };
        let id = u16::try_from(index).map_err(|_| Error::TooManyOwners)?;
        self.owners[index] = Some(owner);
        Ok(OwnerId(id))
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
        let entry = entry.user_data(u64::from(owner.0) << 32 | u64::from(tag));
        if let Some(Some(owner)) = self.owners.get_mut(usize::from(owner.0)) {
            debug_assert!(owner.in_flight < owner.depth, "owner over its depth of {}", owner.depth);
            owner.in_flight += 1;
        }
        self.in_flight += 1;
        self.unsubmitted += 1;
        if !self.backlog.is_empty() {
            self.backlog.push_back(entry);
            return;
        }
        // SAFETY: our caller's contract is the one that `push` of the submission queue asks for.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// One step of the ring: submits what was queued and sorts completions into the inboxes. Makes a system call only
    /// when there is something to submit or the kernel says that completions wait for one. Returns how many completed.
    ///
    /// # Errors
    /// [`Error::RingEnter`] when the kernel refuses for a reason that trying again does not mend.
    #[inline]
    pub fn enter(&mut self) -> Result<usize, Error> {
        if self.unsubmitted > 0 || self.uring.submission().taskrun() || self.uring.submission().cq_overflow()
        {
            self.submit()?;
        }
        Ok(self.reap())
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
        self.in_flight
    }

    /// The ring's counters.
    #[must_use]
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Registers `[addr, addr + len_bytes)` as a fixed buffer, or counts one more user of it when it is registered
    /// already. `None` when the table is full, the buffer too long (1 GiB) or the kernel refuses (lockable
    /// memory): I/O on it then goes without.
    ///
    /// # Safety
    /// The range must be mapped, and stay mapped until the last user released it.
    pub unsafe fn acquire_buffer(&mut self, addr: *mut u8, len_bytes: usize) -> Option<BufId> {
        let start = addr.addr();
        let known = |b: &Option<Buffer>| matches!(b, Some(b) if b.addr == start && b.len_bytes == len_bytes);
        if let Some(index) = self.buffers.iter().position(known) {
            if let Some(buffer) = &mut self.buffers[index] {
                buffer.users += 1;
            }
            return u16::try_from(index).ok().map(BufId);
        }
        if len_bytes == 0 || len_bytes > MAX_BUFFER_BYTES {
            return None;
        }
        let index = self.buffers.iter().position(Option::is_none)?;
        let iovec = libc::iovec { iov_base: addr.cast(), iov_len: len_bytes };
        // SAFETY: our caller promises that the range is mapped for as long as it is registered.
        let done = unsafe { self.uring.submitter().register_buffers_update(index as u32, &[iovec], None) };
        if let Err(e) = done {
            // Once: it would be said again for each queue and each change of its memory.
            if !std::mem::replace(&mut self.buffer_refused, true) {
                let fix = if e.raw_os_error() == Some(libc::ENOMEM) { "; raise RLIMIT_MEMLOCK" } else { "" };
                warn!(
                    "io_uring: cannot register {len_bytes} bytes as a fixed buffer ({e}){fix}; I/O goes without"
                );
            }
            return None;
        }
        self.buffers[index] = Some(Buffer { addr: start, len_bytes, users: 1 });
        u16::try_from(index).ok().map(BufId)
    }

    /// Takes one user off a buffer; the last one unregisters it. I/O in flight keeps its pages pinned all the same.
    pub fn release_buffer(&mut self, id: BufId) {
        let Some(slot) = self.buffers.get_mut(usize::from(id.0)) else { return };
        let Some(buffer) = slot else { return };
        buffer.users -= 1;
        if buffer.users > 0 {
            return;
        }
        *slot = None;
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: an empty entry names no memory; it clears the slot.
        if let Err(e) = unsafe { self.uring.submitter().register_buffers_update(id.0.into(), &[empty], None) }
        {
            warn!("io_uring: cannot unregister buffer {}: {e}", id.0);
        }
    }

    /// Registers a file; `None` when the table is full or the kernel refuses, and the plain descriptor must do.
    pub fn register_file(&mut self, fd: RawFd) -> Option<FileId> {
        let index = self.files.iter().position(|used| !used)?;
        let id = u32::try_from(index).ok()?;
        match self.uring.submitter().register_files_update(id, &[fd]) {
            Ok(_) => {
                self.files[index] = true;
                Some(FileId(id))
            }
            Err(e) => {
                warn!("io_uring: cannot register file descriptor {fd}: {e}");
                None
            }
        }
    }

    /// Takes a file out of the table; operations in flight keep it open.
    pub fn unregister_file(&mut self, id: FileId) {
        if let Err(e) = self.uring.submitter().register_files_update(id.0, &[-1]) {
            warn!("io_uring: cannot unregister file {}: {e}", id.0);
        }
        if let Some(used) = self.files.get_mut(id.0 as usize) {
            *used = false;
        }
    }

    /// Whether this kernel's io_uring knows the operation `opcode` (`io_uring::opcode::X::CODE`).
    #[must_use]
    pub fn supports(&self, opcode: u8) -> bool {
        let mut probe = io_uring::Probe::new();
        self.uring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode)
    }

    fn submit(&mut self) -> Result<(), Error> {
        self.refill();
        let to_submit = self.uring.submission().len() as u32;
        self.counters.enters += 1;
        // SAFETY: no argument structure is passed (`None`); GETEVENTS with a minimum of 0 runs deferred task work and
        // does not wait. The entries' memory is vouched for by `push`.
        let done = unsafe {
            self.uring.submitter().enter::<libc::sigset_t>(
                to_submit,
                0,
                io_uring::EnterFlags::GETEVENTS.bits(),
                None,
            )
        };
        match done {
            Ok(taken) => {
                self.unsubmitted -= (taken as u32).min(self.unsubmitted);
                self.counters.submitted += taken as u64;
                Ok(())
            }
            // The kernel is short of something that completions give back, or a signal came: the next iteration
            // tries again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)) => Ok(()),
            Err(source) => Err(Error::RingEnter { to_submit, source }),
        }
    }

    fn refill(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: `push` vouched for the entry when it was put into the backlog.
            if unsafe { self.uring.submission().push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    #[inline]
    fn reap(&mut self) -> usize {
        let mut reaped = 0;
        for cqe in self.uring.completion() {
            // A MORE flag would mean that this operation completes again; nothing here submits multishot ones.
            debug_assert!(!cqueue::more(cqe.flags()));
            let owner = (cqe.user_data() >> 32) as usize;
            if let Some(Some(owner)) = self.owners.get_mut(owner) {
                owner.in_flight -= 1;
                owner.inbox.push(Completion { tag: cqe.user_data() as u32, result: cqe.result() });
            }
            reaped += 1;
        }
        self.in_flight -= reaped;
        self.counters.completed += reaped as u64;
        reaped
    }
}

/// The file of an operation, registered where it could be.
#[derive(Clone, Copy, Debug)]
pub enum RingFile {
    /// An index into the ring's table.
    Registered(FileId),
    /// A plain descriptor.
    Plain(RawFd),
}

/// Builds an SQE with whichever form of file the [`RingFile`] has: `on_file!(file, |f| opcode::Fsync::new(f))`.
#[macro_export]
macro_rules! on_file {
    ($file:expr, |$f:ident| $build:expr) => {
        match $file {
            $crate::RingFile::Registered(id) => {
                let $f = $crate::fixed_file(id);
                $build
            }
            $crate::RingFile::Plain(fd) => {
                let $f = $crate::plain_file(fd);
                $build
            }
        }
    };
}

/// The io_uring crate's form of a registered file.
#[must_use]
pub fn fixed_file(id: FileId) -> types::Fixed {
    types::Fixed(id.0)
}

/// The io_uring crate's form of a plain descriptor.
#[must_use]
pub fn plain_file(fd: RawFd) -> types::Fd {
    types::Fd(fd)
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    use io_uring::opcode;

    use super::*;

    fn wait(ring: &mut Ring, owner: OwnerId, want: usize) -> Vec<Completion> {
        let mut got = Vec::new();
        for _ in 0..1_000_000 {
            ring.enter().unwrap();
            got.append(ring.inbox(owner).unwrap());
            if got.len() >= want {
                return got;
            }
        }
        panic!("{} of {want} completions after a million iterations", got.len());
    }

    #[test]
    fn completions_reach_their_owners() {
        let mut ring = Ring::new(8).unwrap();
        let a = ring.register_owner(4).unwrap();
        let b = ring.register_owner(4).unwrap();
        for tag in 0..4 {
            // SAFETY: a no-op names no memory.
            unsafe {
                ring.push(a, tag, opcode::Nop::new().build());
                ring.push(b, 100 + tag, opcode::Nop::new().build());
            }
        }
        let mut tags: Vec<u32> = wait(&mut ring, a, 4).iter().map(|c| c.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, [0, 1, 2, 3]);
        let mut tags: Vec<u32> = wait(&mut ring, b, 4).iter().map(|c| c.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, [100, 101, 102, 103]);
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn more_operations_than_submission_slots_all_complete() {
        let mut ring = Ring::new(4).unwrap();
        let owner = ring.register_owner(64).unwrap();
        for tag in 0..64 {
            // SAFETY: a no-op names no memory.
            unsafe { ring.push(owner, tag, opcode::Nop::new().build()) };
        }
        let mut tags: Vec<u32> = wait(&mut ring, owner, 64).iter().map(|c| c.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..64).collect::<Vec<_>>());
    }

    #[test]
    fn fixed_buffers_and_files_work_and_are_shared() {
        let mut ring = Ring::new(8).unwrap();
        let owner = ring.register_owner(1).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"spinblk!").unwrap();
        let mut memory = vec![0u8; 4096];
        // SAFETY: `memory` outlives the registration.
        let first = unsafe { ring.acquire_buffer(memory.as_mut_ptr(), 4096) }.unwrap();
        // SAFETY: as above.
        let second = unsafe { ring.acquire_buffer(memory.as_mut_ptr(), 4096) }.unwrap();
        assert_eq!(first, second);
        ring.release_buffer(first);
        let file_id = RingFile::Registered(ring.register_file(file.as_raw_fd()).unwrap());
        let entry =
            on_file!(file_id, |f| opcode::ReadFixed::new(f, memory.as_mut_ptr(), 8, second.0).build());
        // SAFETY: `memory` and the file live past `wait`.
        unsafe { ring.push(owner, 7, entry) };
        assert_eq!(wait(&mut ring, owner, 1), [Completion { tag: 7, result: 8 }]);
        assert_eq!(&memory[..8], b"spinblk!");
        ring.release_buffer(second);
        assert!(ring.buffers.iter().all(Option::is_none));
    }

    /// Counts warnings.
    #[derive(Default)]
    struct Warnings(std::sync::atomic::AtomicUsize);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn memory_that_the_kernel_refuses_is_said_once_and_done_without() {
        let warnings = Arc::new(Warnings::default());
        let _counted = tracing::subscriber::set_default(Arc::clone(&warnings));
        let mut ring = Ring::new(8).unwrap();
        // Nothing is mapped there, so it cannot be pinned: refused as memory is that RLIMIT_MEMLOCK does not allow.
        let nowhere = std::ptr::without_provenance_mut(0x1000);
        for _ in 0..3 {
            // SAFETY: the range is not mapped, and registering it fails; nothing is ever read or written there.
            assert_eq!(unsafe { ring.acquire_buffer(nowhere, 4096) }, None);
        }
        assert_eq!(warnings.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        let memory = crate::Memory::new(4096, crate::Hugepages::Off, "test").unwrap();
        // SAFETY: the memory lives until after the release.
        let buffer = unsafe { ring.acquire_buffer(memory.as_ptr(), 4096) }.unwrap();
        ring.release_buffer(buffer);
    }

    #[test]
    fn an_idle_ring_never_enters_the_kernel() {
        let mut ring = Ring::new(8).unwrap();
        for _ in 0..1000 {
            ring.enter().unwrap();
        }
        assert_eq!(ring.counters().enters, 0);
    }
}
