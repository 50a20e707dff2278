//! One core's side of a striped device. A child's I/O has its parent's tag.
//!
//! ```text
//!   in one chunk    ─► the same segments, another offset ─► one child
//!   over more       ─► each child's share: one range of it, its memory gathered from the parent's segments
//!                      share ─► round ─► child ─┬─► share done        (a round is what MAX_SEGMENTS hold;
//!                                 ▲             │                      nearly always it is the whole share)
//!                                 └─ more left ─┘
//! ```
//! All shares are under way together. The parent ends when the last of them does, with the error of the first that
//! failed; a failed share does not go on with its rounds, the others do.

use std::sync::Arc;

use spinblk_reactor::Ring;

use super::layout::Layout;
use crate::gather::{Cursor, List};
use crate::{Channel, ChannelCounters, Completion, Info, Io, IoError, IoResult, MAX_SEGMENTS, Op, Segment};

/// An I/O under way.
#[derive(Clone, Copy)]
struct Slot {
    /// It, when it was split; one that was passed on whole ends when its child's does.
    split: Option<Io>,
    /// How many children work for it.
    pending: u32,
    /// The first error.
    result: IoResult,
}

/// One child and what it does for each tag.
struct Child {
    channel: Box<dyn Channel>,
    in_flight: usize,
    /// By tag: up to where on the *device* its share has been handed out.
    handed_out: Vec<u64>,
    /// By tag: room for the segments of a round.
    segments: Vec<[Segment; MAX_SEGMENTS]>,
}

/// One core's channel to a striped device.
pub(super) struct Raid0Channel {
    info: Info,
    layout: Arc<Layout>,
    children: Vec<Child>,
    slots: Vec<Slot>,
    reaped: Vec<Completion>,
}

impl Raid0Channel {
    pub(super) fn new(
        info: &Info,
        layout: Arc<Layout>,
        channels: Vec<Box<dyn Channel>>,
        depth: usize,
    ) -> Self {
        let child = |channel| Child {
            channel,
            in_flight: 0,
            handed_out: vec![0; depth],
            segments: vec![[Segment::EMPTY; MAX_SEGMENTS]; depth],
        };
        Self {
            info: info.clone(),
            layout,
            children: channels.into_iter().map(child).collect(),
            slots: vec![Slot { split: None, pending: 0, result: Ok(()) }; depth],
            reaped: Vec::with_capacity(depth),
        }
    }

    /// Hands every child its share of `io`.
    #[inline(never)]
    fn split(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        if io.segments().len() > MAX_SEGMENTS {
            return Some(Err(IoError::TooManySegments));
        }
        let (mut pending, mut result) = (0, Ok(()));
        let end = io.offset_bytes() + io.len_bytes();
        for (index, child) in self.children.iter_mut().enumerate() {
            let has_none = || self.layout.next_piece(index, io.offset_bytes(), end).is_none();
            if io.op() != Op::Flush && has_none() {
                continue;
            }
            child.handed_out[io.tag as usize] = io.offset_bytes();
            match child.go_on(index, io, &self.layout, ring) {
                Some(ended) => result = result.and(ended),
                None => pending += 1,
            }
        }
        if pending == 0 {
            return Some(result);
        }
        self.slots[io.tag as usize] = Slot { split: Some(*io), pending, result };
        None
    }

    /// Takes a child's result for `tag`: the parent's own, if that was the last.
    fn step(&mut self, index: usize, tag: u32, result: IoResult, ring: &mut Ring) -> Option<IoResult> {
        let (slot, child) = (self.slots.get_mut(tag as usize)?, &mut self.children[index]);
        child.in_flight -= 1;
        let ended = match (&slot.split, result) {
            (Some(io), Ok(())) => child.go_on(index, io, &self.layout, ring)?,
            _ => result,
        };
        slot.result = slot.result.and(ended);
        slot.pending -= 1;
        (slot.pending == 0).then_some(slot.result)
    }
}

impl Child {
    /// Submits rounds of this child's share until one is under way (`None`), or the share has ended.
    fn go_on(&mut self, index: usize, io: &Io, layout: &Layout, ring: &mut Ring) -> Option<IoResult> {
        while let Some(round) = self.next_round(index, io, layout) {
            match self.channel.submit(&round, ring) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.in_flight += 1;
                    return None;
                }
            }
        }
        Some(Ok(()))
    }

    /// The next part of this child's share that can go as one I/O.
    fn next_round(&mut self, index: usize, io: &Io, layout: &Layout) -> Option<Io> {
        let tag = io.tag as usize;
        let (from, end) = (self.handed_out[tag], io.offset_bytes() + io.len_bytes());
        let mut list = List::new(&mut self.segments[tag]);
        let upto = match io.op() {
            // Has no place: all of it is handed out at once, marked by a place that no I/O has.
            Op::Flush if from == u64::MAX => return None,
            Op::Flush => u64::MAX,
            _ if from == end => return None,
            Op::Discard | Op::WriteZeroes { .. } => end,
            Op::Read | Op::Write => {
                let mut cursor = Cursor::new(io.segments());
                cursor.skip(from - io.offset_bytes());
                let mut upto = from;
                loop {
                    let Some(piece) = layout.next_piece(index, upto, end) else { break end };
                    cursor.skip(piece.start - upto);
                    if !cursor.take(piece.len_bytes, &mut list) {
                        break upto;
                    }
                    upto = piece.start + piece.len_bytes;
                }
            }
        };
        self.handed_out[tag] = upto;
        let (start, len_bytes) = match io.op() {
            Op::Flush => (0, 0),
            _ => {
                let start = layout.on_child(index, from);
                (start, layout.on_child(index, upto) - start)
            }
        };
        if len_bytes == 0 && io.op() != Op::Flush {
            return None;
        }
        // SAFETY: the list lies in `self.segments`, which never moves, and is made anew for this tag only after this round
        // has ended (`drop` keeps it when one never does). It names parts of the parent's memory, whose maker promised
        // to keep it until the parent's result is reported, which is after all rounds.
        Some(unsafe { Io::new(io.op(), start, len_bytes, list.as_slice(), io.buf(), io.tag) })
    }
}

impl Channel for Raid0Channel {
    fn submit(&mut self, io: &Io, ring: &mut Ring) -> Option<IoResult> {
        if let Err(error) = self.info.check(io) {
            return Some(Err(error));
        }
        let Some(slot) = self.slots.get_mut(io.tag as usize) else {
            return Some(Err(IoError::Errno(libc::EINVAL)));
        };
        if io.op() == Op::Flush {
            return self.split(io, ring);
        }
        if io.len_bytes() == 0 {
            return Some(Ok(()));
        }
        let Some((index, offset)) = self.layout.in_one_chunk(io.offset_bytes(), io.len_bytes()) else {
            return self.split(io, ring);
        };
        let child = &mut self.children[index];
        let result = child.channel.submit(&io.at(offset), ring);
        if result.is_none() {
            child.in_flight += 1;
            *slot = Slot { split: None, pending: 1, result: Ok(()) };
        }
        result
    }

    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>) {
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            if child.in_flight == 0 {
                continue;
            }
            child.channel.poll(ring, &mut self.reaped);
            for at in 0..self.reaped.len() {
                let Completion { tag, result } = self.reaped[at];
                if let Some(result) = self.step(index, tag, result, ring) {
                    done.push(Completion { tag, result });
                }
            }
            self.reaped.clear();
        }
    }

    fn counters(&self) -> ChannelCounters {
        self.children.iter().map(|child| child.channel.counters()).sum()
    }

    fn close(&mut self, ring: &mut Ring) {
        for child in &mut self.children {
            child.channel.close(ring);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // Against the contract, but entries not submitted yet name the lists: better lost than reused.
            std::mem::forget(std::mem::take(&mut self.segments));
        }
    }
}
