//! The two event descriptors of a queue: the one that wakes the device, and the one that it would wake us with.
//!
//! The second is only waited for, never read before the end: its counter then tells how many interrupts there were.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::Error;

/// A queue's events, and its name for messages.
#[derive(Debug)]
pub(crate) struct Events {
    target: Arc<str>,
    queue: u16,
    kick: EventFd,
    call: EventFd,
    kicks: u64,
}

impl Events {
    pub(crate) fn new(target: Arc<str>, queue: u16) -> Result<Self, Error> {
        let event = || {
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|source| Error::Event {
                target: target.to_string(),
                queue,
                source,
            })
        };
        let (kick, call) = (event()?, event()?);
        Ok(Self { target, queue, kick, call, kicks: 0 })
    }

    /// Others for the same queue, with descriptors of their own for the same events.
    pub(crate) fn try_clone(&self) -> Result<Self, Error> {
        let clone = |event: &EventFd| {
            event.try_clone().map_err(|source| Error::Event {
                target: self.target.to_string(),
                queue: self.queue,
                source,
            })
        };
        let (kick, call) = (clone(&self.kick)?, clone(&self.call)?);
        Ok(Self { target: self.target.clone(), queue: self.queue, kick, call, kicks: 0 })
    }

    /// Wakes the device.
    pub(crate) fn kick(&mut self) -> Result<(), Error> {
        self.kicks += 1;
        self.kick.write(1).map_err(|source| Error::Event {
            target: self.target.to_string(),
            queue: self.queue,
            source,
        })
    }

    /// How often the device was woken.
    pub(crate) fn kicks(&self) -> u64 {
        self.kicks
    }

    /// How often it has interrupted since the last question.
    pub(crate) fn take_interrupts(&self) -> u64 {
        // An error says that there were none.
        self.call.read().unwrap_or(0)
    }

    /// For the server: what wakes it.
    pub(crate) fn kick_event(&self) -> &EventFd {
        &self.kick
    }

    /// For the server: what it interrupts with.
    pub(crate) fn call_event(&self) -> &EventFd {
        &self.call
    }

    /// What becomes readable with an interrupt.
    pub(crate) fn interrupt(&self) -> BorrowedFd<'_> {
        // SAFETY: `call` owns the descriptor and is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) }
    }

    /// The device broke the rules.
    #[cold]
    pub(crate) fn broken(&self, what: String) -> Error {
        Error::Ring { target: self.target.to_string(), queue: self.queue, what }
    }
}
