//! Changes on their way from clients to whoever owns the disks, and their outcomes back.
//!
//! ```text
//!   control thread                                                          main thread
//!     Changes::ask ──── bounded queue, bell ────► ChangeQueue::next   one after the other, as long as each takes
//!     Changes::done ◄── ticket, outcome, bell ─── ChangeQueue::finish
//! ```
//! The control thread never waits: a client that asked for a change is put aside with its ticket, the others are served,
//! and a full queue is an answer, too. A client that leaves takes nothing back: its change is made all the same.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};

use nix::sys::eventfd::{EfdFlags, EventFd};
use serde_json::Value;

use super::rpc::RpcError;
use crate::{Error, api};

/// Changes that may wait behind the one that is being made.
const WAITING_CHANGES: usize = 8;

/// What is to be changed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    AddBdevs(api::Given),
    RemoveBdev(String),
    AddDisk(api::Given),
    RemoveDisk(String),
    Resize(api::ResizeParams),
    SaveConfig(Option<PathBuf>),
}

/// A method's result, or why nothing was changed.
pub(crate) type Outcome = Result<Value, Error>;

/// The end of whoever asks.
pub(crate) struct Changes {
    asked: SyncSender<(u64, Change)>,
    asked_bell: Arc<EventFd>,
    done: Receiver<(u64, Outcome)>,
    done_bell: Arc<EventFd>,
    last_ticket: u64,
}

/// The end of whoever makes the changes.
pub(crate) struct ChangeQueue {
    asked: Receiver<(u64, Change)>,
    asked_bell: Arc<EventFd>,
    done: Sender<(u64, Outcome)>,
    done_bell: Arc<EventFd>,
}

/// Both ends.
pub(crate) fn changes() -> nix::Result<(Changes, ChangeQueue)> {
    // One ring for each change: what is left in the queue keeps it ringing.
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
    let bell = || EventFd::from_value_and_flags(0, flags).map(Arc::new);
    let (asked_bell, done_bell) = (bell()?, bell()?);
    let (ask, asked) = sync_channel(WAITING_CHANGES);
    let (finish, done) = channel();
    let theirs = ChangeQueue {
        asked,
        asked_bell: Arc::clone(&asked_bell),
        done: finish,
        done_bell: Arc::clone(&done_bell),
    };
    Ok((Changes { asked: ask, asked_bell, done, done_bell, last_ticket: 0 }, theirs))
}

impl Changes {
    /// Puts a change into the queue; gives the ticket that its outcome will have.
    pub(super) fn ask(&mut self, change: Change) -> Result<u64, RpcError> {
        self.last_ticket += 1;
        match self.asked.try_send((self.last_ticket, change)) {
            Ok(()) => {
                // Fails only when it has rung more often than anybody can count.
                let _ = self.asked_bell.write(1);
                Ok(self.last_ticket)
            }
            Err(TrySendError::Full(_)) => Err(RpcError::busy(WAITING_CHANGES)),
            Err(TrySendError::Disconnected(_)) => Err(RpcError::unavailable("the daemon is stopping")),
        }
    }

    /// The next outcome that has arrived.
    pub(super) fn done(&self) -> Option<(u64, Outcome)> {
        // The bell first: what was sent before it rang is there, and a ring without anything is not kept.
        let _ = self.done_bell.read();
        self.done.try_recv().ok()
    }

    /// Readable when there is an outcome.
    pub(super) fn bell(&self) -> Arc<EventFd> {
        Arc::clone(&self.done_bell)
    }
}

impl ChangeQueue {
    /// The next change, with its ticket.
    pub(crate) fn next(&self) -> Option<(u64, Change)> {
        // In this order, as above.
        let _ = self.asked_bell.read();
        self.asked.try_recv().ok()
    }

    /// Sends a change's outcome on its way.
    pub(crate) fn finish(&self, ticket: u64, outcome: Outcome) {
        // Nobody waits any more when the control thread has ended.
        if self.done.send((ticket, outcome)).is_ok() {
            let _ = self.done_bell.write(1);
        }
    }
}

impl AsFd for ChangeQueue {
    /// Readable when there is a change.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.asked_bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_and_tickets_come_back() {
        let (mut changes, queue) = changes().unwrap();
        let save = || Change::SaveConfig(None);
        let tickets: Vec<u64> = (0..WAITING_CHANGES).map(|_| changes.ask(save()).unwrap()).collect();
        assert!(changes.ask(save()).unwrap_err().to_string().contains("busy"));
        assert!(changes.done().is_none());
        for ticket in tickets {
            let (asked, _) = queue.next().unwrap();
            queue.finish(asked, Ok(Value::Null));
            assert_eq!(changes.done().map(|(done, outcome)| (done, outcome.is_ok())), Some((ticket, true)));
        }
        assert!(queue.next().is_none());
        // The bells are as quiet as the queues are empty.
        assert!(queue.asked_bell.read().is_err() && changes.done_bell.read().is_err());
        changes.ask(save()).unwrap();
        drop(queue);
        assert!(changes.ask(save()).unwrap_err().to_string().contains("stopping"));
    }

    /// A ring that comes after what it tells of was taken must not ring for ever: each look at an empty queue takes one.
    #[test]
    fn bells_are_quiet_in_the_end_whoever_was_first() {
        const ROUNDS: usize = 20_000;
        let (mut changes, queue) = changes().unwrap();
        let other = std::thread::spawn(move || {
            let mut served = 0;
            while served < ROUNDS {
                if let Some((ticket, _)) = queue.next() {
                    queue.finish(ticket, Ok(Value::Null));
                    served += 1;
                }
            }
            queue
        });
        let (mut asked, mut done) = (0, 0);
        while done < ROUNDS {
            asked += usize::from(asked < ROUNDS && changes.ask(Change::SaveConfig(None)).is_ok());
            while changes.done().is_some() {
                done += 1;
            }
        }
        let queue = other.join().unwrap();
        for _ in 0..ROUNDS {
            assert!(queue.next().is_none() && changes.done().is_none());
        }
        assert!(queue.asked_bell.read().is_err() && changes.done_bell.read().is_err());
    }
}
