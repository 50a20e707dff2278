//! Random requests, many at once, over the whole disk; what is read is checked, and memory comes and goes meanwhile.

use super::disk::{Disk, Shared};
use crate::contents::{Block, Contents};
use crate::fail::{Fail, ensure};
use crate::pattern::Pattern;
use blkio::ReqFlags;
use std::ops::Range;

const BLOCK_BYTES: usize = 4096;
/// Requests at a time; half of them have memory that stays, the others' is another one every now and then.
const SLOTS: usize = 24;
const STAYING: usize = SLOTS / 2;
const MAX_BLOCKS: usize = 16;
const SLOT_BYTES: usize = MAX_BLOCKS * BLOCK_BYTES;
/// Requests between two changes of memory.
const CHANGE_EVERY: u64 = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Read,
    Write(Pattern),
    WriteZeroes,
    Flush,
}

struct Request {
    op: Op,
    blocks: Range<usize>,
}

/// The same numbers for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

struct Load<'a> {
    disk: &'a mut Disk,
    contents: Contents,
    numbers: Numbers,
    slots: Vec<Option<Request>>,
    /// For the slots that keep it, and for the others.
    memory: [Shared; 2],
    begun: u64,
    done: u64,
    changes: u64,
}

/// Does so many requests, then reads the whole disk.
pub(super) fn run(disk: &mut Disk, requests: u64, seed: u64) -> Result<String, Fail> {
    let blocks = usize::try_from(disk.size_bytes).unwrap_or(usize::MAX) / BLOCK_BYTES;
    ensure!(blocks > 2 * MAX_BLOCKS, "a disk of {blocks} blocks is too small");
    let len_bytes = SLOTS / 2 * SLOT_BYTES;
    let memory = [disk.share(len_bytes)?, disk.share(len_bytes)?];
    let mut load = Load {
        disk,
        contents: Contents::unknown(BLOCK_BYTES, blocks),
        numbers: Numbers(seed),
        slots: (0..SLOTS).map(|_| None).collect(),
        memory,
        begun: 0,
        done: 0,
        changes: 0,
    };
    while load.done < requests {
        let changes_due = load.done / CHANGE_EVERY > load.changes;
        if changes_due && load.slots[STAYING..].iter().all(Option::is_none) {
            load.change_memory()?;
        }
        load.begin(requests, if changes_due { STAYING } else { SLOTS });
        load.reap()?;
    }
    load.check_everything()?;
    let Load { memory, done, changes, disk, .. } = load;
    memory.into_iter().for_each(|shared| disk.unshare(shared));
    Ok(format!("{done} requests, memory changed {changes} times"))
}

impl Load<'_> {
    fn change_memory(&mut self) -> Result<(), Fail> {
        let new = self.disk.share((SLOTS - STAYING) * SLOT_BYTES)?;
        let old = std::mem::replace(&mut self.memory[1], new);
        self.disk.unshare(old);
        self.changes += 1;
        Ok(())
    }

    /// Begins a request in each free slot below `slots`.
    fn begin(&mut self, requests: u64, slots: usize) {
        for slot in 0..slots {
            if self.slots[slot].is_some() || self.begun == requests {
                continue;
            }
            let count = 1 + self.numbers.below(MAX_BLOCKS);
            let first = self.numbers.below(self.contents.len() - count);
            let op = match self.numbers.below(20) {
                0..9 => Op::Write(Pattern(self.begun & 0xffff)),
                9..18 => Op::Read,
                18 => Op::WriteZeroes,
                _ => Op::Flush,
            };
            self.start(slot, op, first..first + count);
        }
    }

    /// Starts a request, unless another one is at its blocks.
    fn start(&mut self, slot: usize, op: Op, blocks: Range<usize>) {
        let blocks = if op == Op::Flush { 0..0 } else { blocks };
        if !self.contents.take(blocks.clone()) {
            return;
        }
        let (start, len_bytes) = ((blocks.start * BLOCK_BYTES) as u64, blocks.len() * BLOCK_BYTES);
        let (shared, at) = place(&mut self.memory, slot);
        let queue = &mut self.disk.queues[slot % 2];
        let none = ReqFlags::empty();
        match op {
            Op::Read => {
                shared.bytes(at, len_bytes).fill(0xa5);
                queue.read(start, shared.at(at), len_bytes, slot, none);
            }
            Op::Write(pattern) => {
                pattern.fill(start, shared.bytes(at, len_bytes));
                queue.write(start, shared.at(at), len_bytes, slot, none);
            }
            Op::WriteZeroes => queue.write_zeroes(start, len_bytes as u64, slot, none),
            Op::Flush => queue.flush(slot, none),
        }
        self.slots[slot] = Some(Request { op, blocks });
        self.begun += 1;
    }

    /// Waits for something of each queue that has something to do.
    fn reap(&mut self) -> Result<(), Fail> {
        for queue in 0..2 {
            if self.slots.iter().skip(queue).step_by(2).all(Option::is_none) {
                continue;
            }
            let mut finished = Vec::new();
            self.disk.wait(queue, |slot, is_known| finished.push((slot, is_known)))?;
            for (slot, is_known) in finished {
                self.finish(slot, is_known)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, slot: usize, is_known: bool) -> Result<(), Fail> {
        let request = self.slots.get_mut(slot).and_then(Option::take);
        let Some(Request { op, blocks }) = request else {
            return Err(Fail::Check(format!("request {slot} is done, and nobody made it")));
        };
        let now = match op {
            Op::Write(pattern) => Some(Block::Written(pattern)),
            Op::WriteZeroes if is_known => Some(Block::Zeroes),
            Op::WriteZeroes | Op::Read | Op::Flush => None,
        };
        ensure!(is_known || op == Op::WriteZeroes, "{op:?} is not supported");
        if op == Op::Read {
            let (shared, at) = place(&mut self.memory, slot);
            let read = shared.bytes(at, blocks.len() * BLOCK_BYTES);
            let wrong = self.contents.first_wrong(blocks.clone(), read);
            ensure!(wrong.is_none(), "after {} requests a block is not what it was: {wrong:?}", self.done);
        }
        self.contents.give_back(blocks, now);
        self.done += 1;
        Ok(())
    }

    fn check_everything(&mut self) -> Result<(), Fail> {
        for first in (0..self.contents.len()).step_by(MAX_BLOCKS) {
            let last = self.contents.len().min(first + MAX_BLOCKS);
            self.start(0, Op::Read, first..last);
            self.reap()?;
        }
        Ok(())
    }
}

/// A slot's memory, and where in it.
fn place(memory: &mut [Shared; 2], slot: usize) -> (&mut Shared, usize) {
    (&mut memory[slot / STAYING], slot % STAYING * SLOT_BYTES)
}
