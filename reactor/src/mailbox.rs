//! A bounded mailbox: how any thread hands work to a reactor, without locks on the reactor's side.
//!
//! The queue is crossbeam's `ArrayQueue`. What is ours is the *closing protocol*: a message that was accepted is
//! delivered, even if the reactor stops at that moment; one that was not is given back to its sender.
//!
//! ```text
//!   state: AtomicUsize = CLOSED bit | number of senders between "entered" and "left"
//!
//!   post:   state += 1 ──CLOSED?──► state -= 1, give the message back
//!              └──────► push ──► state -= 1
//!   close:  state |= CLOSED, then deliver until no sender is inside and the queue is empty
//! ```
//!
//! A sender that entered before the close is waited for; one that enters later sees CLOSED. The loom tests walk
//! through all interleavings of this argument.

#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(not(loom))]
use crossbeam_queue::ArrayQueue;
#[cfg(loom)]
use loom_queue::ArrayQueue;

const CLOSED: usize = 1 << (usize::BITS - 1);

/// Why a message was not accepted; holds the message.
#[derive(Debug, PartialEq, Eq)]
pub enum PostError<T> {
    /// The mailbox holds as many messages as it can.
    Full(T),
    /// The reactor has stopped, or is stopping.
    Closed(T),
}

/// A bounded queue with many senders and one receiver.
pub struct Mailbox<T> {
    queue: ArrayQueue<T>,
    state: AtomicUsize,
}

impl<T> Mailbox<T> {
    /// A mailbox for at most `capacity` messages (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { queue: ArrayQueue::new(capacity.max(1)), state: AtomicUsize::new(0) }
    }

    /// Hands a message over. Any thread, never blocks.
    ///
    /// # Errors
    /// [`PostError`] with the message, when the mailbox is full or closed.
    pub fn post(&self, message: T) -> Result<(), PostError<T>> {
        // Acquire pairs with the release of `close`, so that whoever sees CLOSED sees what was done before it.
        let before = self.state.fetch_add(1, Ordering::Acquire);
        let outcome = if before & CLOSED != 0 {
            Err(PostError::Closed(message))
        } else {
            self.queue.push(message).map_err(PostError::Full)
        };
        // Release: the push happens before the receiver of `close` sees this sender gone.
        self.state.fetch_sub(1, Ordering::Release);
        outcome
    }

    /// The oldest message. Receiver only; an empty mailbox costs two loads and no fence.
    #[inline]
    pub fn take(&self) -> Option<T> {
        if self.queue.is_empty() { None } else { self.queue.pop() }
    }

    /// Refuses messages from now on and delivers all that were accepted. Receiver only. Spins for senders that are in
    /// the middle of a post, which is a few instructions.
    pub fn close(&self, mut deliver: impl FnMut(T)) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        loop {
            // Read the senders first: a queue found empty after they left stays empty.
            let senders_left = self.state.load(Ordering::Acquire) == CLOSED;
            while let Some(message) = self.queue.pop() {
                deliver(message);
            }
            if senders_left {
                return;
            }
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            std::hint::spin_loop();
        }
    }
}

/// A stand-in for crossbeam's queue (which loom cannot see into) with the same promises, behind loom's mutex.
#[cfg(loom)]
mod loom_queue {
    use loom::sync::Mutex;

    pub(super) struct ArrayQueue<T>(Mutex<std::collections::VecDeque<T>>, usize);

    impl<T> ArrayQueue<T> {
        pub(super) fn new(capacity: usize) -> Self {
            Self(Mutex::new(std::collections::VecDeque::new()), capacity)
        }
        pub(super) fn push(&self, message: T) -> Result<(), T> {
            let mut queue = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if queue.len() == self.1 {
                return Err(message);
            }
            queue.push_back(message);
            Ok(())
        }
        pub(super) fn pop(&self) -> Option<T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front()
        }
        pub(super) fn is_empty(&self) -> bool {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty()
        }
    }
}

#[cfg(loom)]
#[cfg(test)]
mod loom_tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two senders race with a receiver that takes what it finds and then closes: accepted means delivered,
    /// once, and refused means given back.
    #[test]
    fn loom_accepted_means_delivered() {
        // Three preemptions reach every pair of racing steps of three threads; without a bound this takes minutes.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let mailbox = Arc::new(Mailbox::new(2));
            let senders: Vec<_> = (0..2usize)
                .map(|id| {
                    let mailbox = mailbox.clone();
                    thread::spawn(move || mailbox.post(id).is_ok())
                })
                .collect();
            let mut delivered = [0; 2];
            if let Some(id) = mailbox.take() {
                delivered[id] += 1;
            }
            mailbox.close(|id| delivered[id] += 1);
            for (id, sender) in senders.into_iter().enumerate() {
                let accepted = sender.join().unwrap();
                assert_eq!(delivered[id], usize::from(accepted), "sender {id}");
            }
            assert!(matches!(mailbox.post(0), Err(PostError::Closed(0))));
        });
    }

    /// A full mailbox gives the message back and stays usable.
    #[test]
    fn loom_full_gives_back() {
        loom::model(|| {
            let mailbox = Arc::new(Mailbox::new(1));
            let other = mailbox.clone();
            let sender = thread::spawn(move || other.post(1));
            let mine = mailbox.post(2);
            let theirs = sender.join().unwrap();
            assert!(mine.is_ok() != theirs.is_ok());
            assert!(mailbox.take().is_some());
            assert!(mailbox.post(3).is_ok());
        });
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn messages_come_out_in_order() {
        let mailbox = Mailbox::new(3);
        assert_eq!(mailbox.take(), None);
        for i in 0..3 {
            mailbox.post(i).unwrap();
        }
        assert_eq!(mailbox.post(9), Err(PostError::Full(9)));
        assert_eq!(
            (mailbox.take(), mailbox.take(), mailbox.take(), mailbox.take()),
            (Some(0), Some(1), Some(2), None)
        );
    }

    #[test]
    fn closing_delivers_what_was_accepted_and_refuses_the_rest() {
        let mailbox = Mailbox::new(4);
        mailbox.post(1).unwrap();
        mailbox.post(2).unwrap();
        let mut got = Vec::new();
        mailbox.close(|m| got.push(m));
        assert_eq!(got, [1, 2]);
        assert_eq!(mailbox.post(3), Err(PostError::Closed(3)));
    }

    #[test]
    fn many_senders_lose_nothing() {
        let mailbox = Arc::new(Mailbox::new(8));
        let senders: Vec<_> = (0..4u64)
            .map(|id| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || {
                    (0..1000u64)
                        .map(|n| {
                            let mut message = id * 1000 + n;
                            loop {
                                match mailbox.post(message) {
                                    Ok(()) => break 1u64,
                                    Err(PostError::Full(back)) => message = back,
                                    Err(PostError::Closed(_)) => break 0,
                                }
                                std::thread::yield_now();
                            }
                        })
                        .sum::<u64>()
                })
            })
            .collect();
        let mut got = 0u64;
        while got < 2000 {
            got += u64::from(mailbox.take().is_some());
        }
        mailbox.close(|_| got += 1);
        let accepted: u64 = senders.into_iter().map(|s| s.join().unwrap()).sum();
        assert_eq!(got, accepted);
    }
}
