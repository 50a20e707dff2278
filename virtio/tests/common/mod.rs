//! A block device that answers when a test says so, in the order that it says.

use std::cell::RefCell;
use std::collections::VecDeque;

use spinblk_bdev::{Bdev, Channel, Completion, Error, Info, Io, IoResult};
use spinblk_reactor::Ring;

thread_local! {
    static HELD: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static ANSWERS: RefCell<VecDeque<Completion>> = const { RefCell::new(VecDeque::new()) };
}

/// Holds every I/O until [`answer`].
pub(crate) struct Delayed(Info);

impl Delayed {
    pub(crate) fn new() -> Self {
        Self(Info::new("delayed", 1 << 20, 512).unwrap())
    }
}

/// The tags of the I/Os that are held, oldest first.
pub(crate) fn held() -> Vec<u32> {
    HELD.with_borrow(Clone::clone)
}

/// Lets a held I/O end with `result` at the queue's next poll.
pub(crate) fn answer(tag: u32, result: IoResult) {
    let known = HELD.with_borrow_mut(|held| {
        let before = held.len();
        held.retain(|&other| other != tag);
        held.len() < before
    });
    assert!(known, "no I/O with tag {tag} is held");
    ANSWERS.with_borrow_mut(|answers| answers.push_back(Completion { tag, result }));
}

struct DelayedChannel;

impl Bdev for Delayed {
    fn info(&self) -> &Info {
        &self.0
    }
    fn kind(&self) -> &'static str {
        "test"
    }

    fn open(&self, _: &mut Ring, _: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(DelayedChannel))
    }
}

impl Channel for DelayedChannel {
    fn submit(&mut self, io: &Io, _: &mut Ring) -> Option<IoResult> {
        HELD.with_borrow_mut(|held| held.push(io.tag));
        None
    }
    fn poll(&mut self, _: &mut Ring, done: &mut Vec<Completion>) {
        ANSWERS.with_borrow_mut(|answers| done.extend(answers.drain(..)));
    }
    fn close(&mut self, _: &mut Ring) {
        assert!(held().is_empty(), "closed with I/O in flight");
    }
}
