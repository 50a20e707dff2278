//! Sleeps until one of a thread's queues interrupts.
//!
//! Contract: an interrupt that comes after the last `wait` returned ends the next one at once. The event descriptors
//! are watched edge by edge and never read, so that a wake-up costs one system call whatever the number of queues.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Longest sleep: how late the thread sees that it is to stop.
const LIMIT: Duration = Duration::from_millis(50);
/// Wake-ups taken at a time; what is left over ends the next sleep at once.
const EVENTS: usize = 16;

/// The event descriptors of a thread's queues.
pub(crate) struct Sleeper {
    epoll: Epoll,
}

impl Sleeper {
    pub(crate) fn new<'a>(interrupts: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for interrupt in interrupts {
            epoll.add(interrupt, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        }
        Ok(Self { epoll })
    }

    /// Sleeps until there is an interrupt, or for some milliseconds.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let limit = EpollTimeout::try_from(LIMIT).unwrap_or(EpollTimeout::ZERO);
        match self.epoll.wait(&mut [EpollEvent::empty(); EVENTS], limit) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    #[test]
    fn every_interrupt_ends_a_sleep_though_none_is_read() {
        let events = [EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap()];
        // SAFETY: the events outlive the sleeper and own their descriptors.
        let borrow = |event: &EventFd| unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
        let sleeper = Sleeper::new(events.iter().map(borrow)).unwrap();
        let sleeps = || {
            let began = Instant::now();
            sleeper.wait().unwrap();
            began.elapsed() >= LIMIT
        };
        assert!(sleeps());
        for event in events.iter().chain(&events) {
            event.write(1).unwrap();
            assert!(!sleeps());
            assert!(sleeps());
        }
    }
}
