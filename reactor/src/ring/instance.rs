//! One io_uring: its two queues, and a backlog for what finds the submission queue full.
//!
//! A core has one for everything, and where a device has poll queues a second one (IOPOLL) for its reads and writes. The
//! completions of that one raise no interrupt: the kernel looks for them on the device only when it is asked to.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, cqueue, squeue};

use super::RingCounters;
use crate::Error;

/// One io_uring.
pub(super) struct Instance {
    uring: IoUring,
    /// Entries that found the submission queue full; drained before anything newer.
    backlog: VecDeque<squeue::Entry>,
    unsubmitted: u32,
    in_flight: usize,
    counters: RingCounters,
}

impl Instance {
    /// Sets one up with `entries` submission slots and four times as many completion slots.
    pub(super) fn new(entries: u32, iopoll: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(entries * 4);
        if iopoll {
            builder.setup_iopoll();
        }
        let uring = builder.build(entries)?;
        let (backlog, counters) = (VecDeque::new(), RingCounters::default());
        Ok(Self { uring, backlog, unsubmitted: 0, in_flight: 0, counters })
    }

    /// Makes room for `depth` operations in the backlog.
    pub(super) fn reserve(&mut self, depth: usize) {
        self.backlog.reserve(depth.saturating_sub(self.backlog.len()));
    }

    /// Queues one operation for the next step.
    ///
    /// # Safety
    /// As for [`Ring::push`](super::Ring::push).
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
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

    /// One step: submits what was queued and hands out completions, as user data and result. Enters the kernel only when
    /// there is something to submit or the kernel says that completions wait for it.
    #[inline]
    pub(super) fn step(&mut self, deliver: impl FnMut(u64, i32)) -> Result<usize, Error> {
        if self.unsubmitted > 0 || self.uring.submission().taskrun() || self.uring.submission().cq_overflow()
        {
            self.submit()?;
        }
        Ok(self.reap(deliver))
    }

    /// The same for an IOPOLL ring. Nobody else looks for its completions, so it enters while anything is in flight.
    #[inline]
    pub(super) fn step_polled(&mut self, deliver: impl FnMut(u64, i32)) -> Result<usize, Error> {
        if self.in_flight == 0 {
            return Ok(0);
        }
        self.submit()?;
        Ok(self.reap(deliver))
    }

    /// Operations pushed whose completions were not reaped yet.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Makes an empty table for registered buffers.
    pub(super) fn make_buffer_table(&self, slots: usize) -> io::Result<()> {
        self.uring.submitter().register_buffers_sparse(slots as u32)
    }

    /// Makes an empty table for registered files.
    pub(super) fn make_file_table(&self, slots: usize) -> io::Result<()> {
        self.uring.submitter().register_files_sparse(slots as u32)
    }

    /// Puts a buffer into a slot of the table; one of no bytes clears it.
    ///
    /// # Safety
    /// The range must be mapped, and stay mapped for as long as it is in the table.
    pub(super) unsafe fn set_buffer(&self, index: usize, addr: usize, len_bytes: usize) -> io::Result<()> {
        let iov_base = std::ptr::with_exposed_provenance_mut(addr);
        let iovec = libc::iovec { iov_base, iov_len: len_bytes };
        // SAFETY: our caller's promise.
        unsafe { self.uring.submitter().register_buffers_update(index as u32, &[iovec], None) }
    }

    /// Puts a file into a slot of the table; descriptor -1 clears it.
    pub(super) fn set_file(&self, index: usize, fd: RawFd) -> io::Result<()> {
        self.uring.submitter().register_files_update(index as u32, &[fd]).map(drop)
    }

    /// Whether the kernel knows an operation.
    pub(super) fn supports(&self, opcode: u8) -> bool {
        let mut probe = io_uring::Probe::new();
        self.uring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode)
    }

    fn submit(&mut self) -> Result<(), Error> {
        self.refill();
        let to_submit = self.uring.submission().len() as u32;
        self.counters.enters += 1;
        // SAFETY: no argument structure is passed (`None`); GETEVENTS with a minimum of 0 runs deferred task work, looks
        // at polled devices once, and does not wait. The entries' memory is vouched for by `push`.
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
    fn reap(&mut self, mut deliver: impl FnMut(u64, i32)) -> usize {
        let mut reaped = 0;
        for cqe in self.uring.completion() {
            // A MORE flag would mean that this operation completes again; nothing here submits multishot ones.
            debug_assert!(!cqueue::more(cqe.flags()));
            deliver(cqe.user_data(), cqe.result());
            reaped += 1;
        }
        self.in_flight -= reaped;
        self.counters.completed += reaped as u64;
        reaped
    }
}
