//! Signals as events: blocked in every thread, read by the main thread between its own steps.
//!
//! A handler could interrupt any system call of any thread; a blocked signal interrupts none, and waits until the
//! main thread asks for it.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask the program to stop.
const STOP_SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The signals that are ignored, as a mask; none where the kernel does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The queue of stop signals.
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the stop signals in this thread and all that it starts later: call it before there are others.
    pub(crate) fn block() -> nix::Result<Self> {
        // What the caller has the program ignore (`nohup`, a shell's background job) stays ignored; blocking would queue it.
        let ignored = ignored_signals();
        let is_wanted = |signal: &Signal| ignored & 1 << (*signal as i32 - 1) == 0;
        let set: SigSet = STOP_SIGNALS.into_iter().filter(is_wanted).collect();
        set.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// Waits for a signal, at most `limit`; returns its name.
    pub(crate) fn wait(&self, limit: Duration) -> nix::Result<Option<&'static str>> {
        self.wait_or(limit, None)
    }

    /// The same, and no longer than until `other` is readable.
    pub(crate) fn wait_or(
        &self,
        limit: Duration,
        other: Option<BorrowedFd<'_>>,
    ) -> nix::Result<Option<&'static str>> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let fds = [Some(self.fd.as_fd()), other].into_iter().flatten();
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, limit) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
        let Some(info) = self.fd.read_signal()? else { return Ok(None) };
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
        Ok(Some(signal.map_or("a signal", Signal::as_str)))
    }
}
