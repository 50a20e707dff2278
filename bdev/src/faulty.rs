//! Fails I/Os on purpose, to see what those above make of it. In configuration its type is `error`.
//!
//! A struck I/O ends in the error that was asked for, after all, some or nothing of it was done: devices that fail do all
//! three, and whoever is above must not care which.

use std::fmt;
use std::sync::Arc;

use spinblk_reactor::Ring;

use crate::gather::{Cursor, List};
use crate::rule::{Cup, Dice};
use crate::{
    Bdev, Channel, ChannelCounters, Completion, Error, Info, Io, IoError, IoResult, MAX_SEGMENTS, Op, Rule,
    Segment,
};

/// How much of a struck I/O is done all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moved {
    /// Nothing: it fails before the child hears of it.
    #[default]
    Nothing,
    /// The first half, in whole blocks: a transfer cut short. Nothing of one block, or of a flush.
    Part,
    /// Everything: only the answer is wrong.
    All,
}

/// A device that fails as it is told to.
pub struct Faulty {
    info: Info,
    dice: Dice,
    error: IoError,
    moved: Moved,
    children: [Arc<dyn Bdev>; 1],
}

impl Faulty {
    /// `child`, with `error` for the I/Os that `rule` strikes.
    ///
    /// # Errors
    /// [`Error::Option`] for a rule that makes no sense.
    pub fn new(
        name: &str,
        rule: Rule,
        error: IoError,
        moved: Moved,
        child: Arc<dyn Bdev>,
    ) -> Result<Self, Error> {
        let info = Info { name: name.into(), ..child.info().clone() };
        rule.check(&info)?;
        Ok(Self { info, dice: Dice::new(rule), error, moved, children: [child] })
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dice, error, moved) = (&self.dice, &self.error, &self.moved);
        f.debug_struct("Faulty")
            .field("dice", dice)
            .field("error", error)
            .field("moved", moved)
            .finish_non_exhaustive()
    }
}

impl Bdev for Faulty {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "error"
    }

    /// Its size is its child's own.
    fn resize(&self, size_bytes: Option<u64>) -> Result<u64, Error> {
        self.children[0].resize(size_bytes)
    }

    fn children(&self) -> &[Arc<dyn Bdev>] {
        &self.children
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(FaultyChannel {
            info: self.info.clone(),
            child: self.children[0].open(ring, depth)?,
            cup: self.dice.open(),
            error: self.error,
            moved: self.moved,
            struck: vec![false; depth],
            segments: vec![[Segment::EMPTY; MAX_SEGMENTS]; if self.moved == Moved::Part { depth } else { 0 }],
            in_flight: 0,
            reaped: Vec::with_capacity(depth),
        }))
    }
}

struct FaultyChannel {
    info: Info,
    child: Box<dyn Channel>,
    cup: Cup,
    error: IoError,
    moved: Moved,
    /// By tag: whether the error takes the place of the child's result.
    struck: Vec<bool>,
    /// By tag, where parts are moved: room for the part's segments.
    segments: Vec<[Segment; MAX_SEGMENTS]>,
    in_flight: usize,
    reaped: Vec<Completion>,
}

impl FaultyChannel {
    /// What the child does of a struck `io`.
    fn moved(&mut self, io: &Io) -> Option<Io> {
        match self.moved {
            Moved::Nothing => None,
            Moved::All => Some(*io),
            Moved::Part => self.part(io),
        }
    }

    fn part(&mut self, io: &Io) -> Option<Io> {
        let block_size = u64::from(self.info.block_size);
        let len_bytes = io.len_bytes() / 2 / block_size * block_size;
        if len_bytes == 0 || io.op() == Op::Flush {
            return None;
        }
        let mut list = List::new(self.segments.get_mut(io.tag as usize)?);
        if !Cursor::new(io.segments()).take(len_bytes, &mut list) {
            return None;
        }
        let segments = list.as_slice();
        // SAFETY: the list lies in `self.segments`, which never moves and is made anew for this tag only after its I/O has
        // ended (`drop` keeps it when one never does). It names parts of the I/O's memory, which its maker promised to
        // keep until the I/O is reported.
        Some(unsafe { Io::new(io.op(), io.offset_bytes(), len_bytes, segments, io.buf(), io.tag) })
    }

    fn outcome(&self, tag: u32, result: IoResult) -> IoResult {
        if self.struck.get(tag as usize) == Some(&true) { Err(self.error) } else { result }
    }
}

impl Channel for FaultyChannel {
    fn submit(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        if let Err(error) = self.info.check(io) {
            return Some(Err(error));
        }
        let Some(struck) = self.struck.get_mut(io.tag as usize) else {
            return Some(Err(IoError::Errno(libc::EINVAL)));
        };
        *struck = self.cup.strikes(io);
        let moved = if *struck { self.moved(io) } else { Some(*io) };
        let Some(moved) = moved else { return Some(Err(self.error)) };
        let result = self.child.submit(&moved, ring);
        self.in_flight += usize::from(result.is_none());
        result.map(|result| self.outcome(io.tag, result))
    }

    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>) {
        self.child.poll(ring, &mut self.reaped);
        self.in_flight -= self.reaped.len();
        for &Completion { tag, result } in &self.reaped {
            done.push(Completion { tag, result: self.outcome(tag, result) });
        }
        self.reaped.clear();
    }

    fn counters(&self) -> ChannelCounters {
        self.child.counters()
    }

    fn close(&mut self, ring: &mut Ring) {
        self.child.close(ring);
    }
}

impl Drop for FaultyChannel {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // Against the contract, but entries not submitted yet name the lists: better lost than reused.
            std::mem::forget(std::mem::take(&mut self.segments));
        }
    }
}
