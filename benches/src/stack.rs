//! A stack of block devices under load on the calling thread, with nothing above it: no queue, no reactor.
//!
//! ```text
//!   turn:  DEPTH requests into the channel ─► reap until all of them are done ─► (again)
//! ```
//! It is driven as `spinblk perf` drives a disk in its own process, without recording latencies. What the harness itself costs
//! is the same for every stack, so differences between two are theirs.

use std::sync::Arc;

use spinblk_bdev::Bdev;
use spinblk_load::{BdevLane, BdevTarget, Done, Lane, Op, Target};
use spinblk_reactor::Hugepages;

use crate::Error;

/// Requests in flight.
pub const DEPTH: u32 = 32;
/// Turns between two looks at the clock, which then costs nothing that could be seen.
const TURNS: u64 = 64;
/// From one request's block to the next one's, in blocks: odd, so that all blocks have their turn, and so long that no
/// prefetcher follows.
const STRIDE_BLOCKS: u64 = 0x9E37_79B9_7F4A_7C15;

/// A bdev's channel, and what to do with it.
pub struct Stack {
    lane: BdevLane,
    disk: String,
    op: Op,
    block_bytes: u32,
    /// Of block numbers: as many blocks of the disk as are a power of two.
    mask: u64,
    requests: u64,
    done: Vec<Done>,
}

impl Stack {
    /// Opens a channel for requests of `block_bytes`, all reads or all writes, anywhere on the disk, and warms it up.
    ///
    /// # Errors
    /// [`Error::Load`], and [`Error::Argument`] for a disk that is smaller than a request.
    pub fn open(bdev: &Arc<dyn Bdev>, op: Op, block_bytes: u32) -> Result<Self, Error> {
        let disk = bdev.info().name.clone();
        let blocks = bdev.info().size_bytes() / u64::from(block_bytes);
        let Some(log2_blocks) = blocks.checked_ilog2() else {
            return Err(Error::Argument(format!("{disk} is smaller than a request of {block_bytes} bytes")));
        };
        let lane = BdevTarget::new(Arc::clone(bdev), Hugepages::Off).open(0, DEPTH, block_bytes)?;
        let mask = (1 << log2_blocks) - 1;
        let done = Vec::with_capacity(DEPTH as usize);
        let mut stack = Self { lane, disk, op, block_bytes, mask, requests: 0, done };
        stack.turns()?;
        Ok(stack)
    }

    /// Some turns; how many requests those were.
    ///
    /// # Errors
    /// Those of [`Stack::turn`].
    pub fn turns(&mut self) -> Result<u64, Error> {
        (0..TURNS).try_for_each(|_| self.turn())?;
        Ok(TURNS * u64::from(DEPTH))
    }

    /// One batch of requests, from the first one's submission to the last one's completion.
    ///
    /// # Errors
    /// [`Error::Load`] when the ring fails, [`Error::Failed`] when a request does.
    // A function by itself: callgrind counts what happens inside it.
    #[inline(never)]
    pub fn turn(&mut self) -> Result<(), Error> {
        for slot in 0..DEPTH {
            let block = self.requests.wrapping_mul(STRIDE_BLOCKS) & self.mask;
            self.lane.prepare(slot, self.op, block * u64::from(self.block_bytes));
            self.requests += 1;
        }
        self.lane.publish()?;
        while self.done.len() < DEPTH as usize {
            self.lane.reap(&mut self.done)?;
        }
        let fault = self.done.iter().find_map(|done| done.fault);
        self.done.clear();
        fault.map_or(Ok(()), |fault| Err(Error::Failed { disk: self.disk.clone(), why: fault.text() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::null_disk;
    use spinblk_bdev::{Null, NullReads};

    #[test]
    fn a_turn_is_so_many_requests_and_says_when_one_fails() {
        let null = |size_bytes, read_only| -> Arc<dyn Bdev> {
            let null = Null::new("n", size_bytes, 512, NullReads::Untouched).unwrap();
            Arc::new(null.with_read_only(read_only))
        };
        let mut stack = Stack::open(&null_disk().unwrap(), Op::Read, 4096).unwrap();
        let before = stack.requests;
        assert_eq!(stack.turns().unwrap(), stack.requests - before);
        // One block more or less than a power of two: no request reaches beyond the end.
        for blocks in [1, 3, 4, 5] {
            Stack::open(&null(blocks * 4096, false), Op::Write, 4096).unwrap();
        }
        let refused = Stack::open(&null(1 << 20, true), Op::Write, 4096).map(drop).unwrap_err();
        assert_eq!(refused.to_string(), "a request to n failed: device is read-only");
        assert!(matches!(Stack::open(&null(512, false), Op::Read, 4096), Err(Error::Argument(_))));
    }
}
