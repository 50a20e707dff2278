//! Holds I/Os back, to see what a slow device does to those above it. The child does its work at once; a struck I/O is
//! reported when its latency is over, counted from its submission, or when the child is done, whichever is later.
//!
//! ```text
//!   submit ─► child ─► result ─┬─ not struck ─────────────► reported
//!                              └─ struck ─► waits till due ─► reported
//! ```
//! Made for tests and for trying out what users will feel; it reads the clock for each struck I/O.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spinblk_reactor::Ring;

use crate::rule::{Cup, Dice};
use crate::{Bdev, Channel, ChannelCounters, Completion, Error, Info, Io, IoError, IoResult, Rule};

/// A device that is as slow as it is told to be.
pub struct Delay {
    info: Info,
    dice: Dice,
    latency: Duration,
    children: [Arc<dyn Bdev>; 1],
}

impl Delay {
    /// `child`, with `latency` for the I/Os that `rule` strikes.
    ///
    /// # Errors
    /// [`Error::Option`] for a rule that makes no sense.
    pub fn new(name: &str, rule: Rule, latency: Duration, child: Arc<dyn Bdev>) -> Result<Self, Error> {
        let info = Info { name: name.into(), ..child.info().clone() };
        rule.check(&info)?;
        Ok(Self { info, dice: Dice::new(rule), latency, children: [child] })
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delay")
            .field("dice", &self.dice)
            .field("latency", &self.latency)
            .finish_non_exhaustive()
    }
}

impl Bdev for Delay {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "delay"
    }

    /// Its size is its child's own.
    fn resize(&self, size_bytes: Option<u64>) -> Result<u64, Error> {
        self.children[0].resize(size_bytes)
    }

    fn children(&self) -> &[Arc<dyn Bdev>] {
        &self.children
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(DelayChannel {
            info: self.info.clone(),
            child: self.children[0].open(ring, depth)?,
            cup: self.dice.open(),
            latency: self.latency,
            slots: vec![Slot { due: None, result: Ok(()) }; depth],
            waiting: BinaryHeap::with_capacity(depth),
            reaped: Vec::with_capacity(depth),
        }))
    }
}

#[derive(Clone, Copy)]
struct Slot {
    /// When it may be reported, for one that was struck.
    due: Option<Instant>,
    /// What the child said, once it waits.
    result: IoResult,
}

struct DelayChannel {
    info: Info,
    child: Box<dyn Channel>,
    cup: Cup,
    latency: Duration,
    slots: Vec<Slot>,
    /// Tags that are done and not due, the next one on top.
    waiting: BinaryHeap<Reverse<(Instant, u32)>>,
    reaped: Vec<Completion>,
}

impl DelayChannel {
    /// Takes a result: what to report now, if it is not to wait.
    fn step(&mut self, tag: u32, result: IoResult) -> Option<IoResult> {
        let Some(slot) = self.slots.get_mut(tag as usize) else { return Some(result) };
        let Some(due) = slot.due.take() else { return Some(result) };
        slot.result = result;
        self.waiting.push(Reverse((due, tag)));
        None
    }
}

impl Channel for DelayChannel {
    fn submit(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        if let Err(error) = self.info.check(io) {
            return Some(Err(error));
        }
        let Some(slot) = self.slots.get_mut(io.tag as usize) else {
            return Some(Err(IoError::Errno(libc::EINVAL)));
        };
        slot.due = self.cup.strikes(io).then(|| Instant::now() + self.latency);
        let result = self.child.submit(io, ring)?;
        self.step(io.tag, result)
    }

    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>) {
        self.child.poll(ring, &mut self.reaped);
        for at in 0..self.reaped.len() {
            let Completion { tag, result } = self.reaped[at];
            if let Some(result) = self.step(tag, result) {
                done.push(Completion { tag, result });
            }
        }
        self.reaped.clear();
        if self.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(&Reverse((due, tag))) = self.waiting.peek()
            && due <= now
        {
            self.waiting.pop();
            done.push(Completion { tag, result: self.slots[tag as usize].result });
        }
    }

    fn counters(&self) -> ChannelCounters {
        self.child.counters()
    }

    fn close(&mut self, ring: &mut Ring) {
        self.child.close(ring);
    }
}
