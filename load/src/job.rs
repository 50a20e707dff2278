//! What to do to a target, and whether it can be done.

use std::time::Duration;

use crate::{Error, Geometry, Op};

/// Longest block: beyond it a server may have to split, and the memory of a lane grows out of hand.
const MAX_BLOCK_BYTES: u32 = 16 << 20;
/// Blocks of one verified run. The ledger takes 4 bytes for each.
const MAX_VERIFIED_BLOCKS: u64 = 1 << 28;

/// The order of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anywhere, evenly spread.
    Random,
    /// One after the other, round and round.
    Sequential,
}

/// How completions are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completions {
    /// By looking all the time; the target is told not to interrupt.
    #[default]
    Poll,
    /// By sleeping until the target interrupts, whenever there is nothing to do.
    Interrupt,
}

impl Completions {
    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Interrupt => "interrupt",
        }
    }
}

/// One run of the generator.
#[derive(Clone, Debug)]
pub struct Job {
    /// The order of offsets.
    pub access: Access,
    /// How many of a hundred requests are reads.
    pub read_percent: u8,
    /// Bytes of each request; offsets are multiples of it.
    pub block_bytes: u32,
    /// Requests in flight on each queue.
    pub depth: u32,
    /// Queues; each has an equal part of the device to itself.
    pub queues: u16,
    /// Cores that poll, one thread each; queues are dealt over them.
    pub cores: Vec<usize>,
    /// How completions are found.
    pub completions: Completions,
    /// Load before measuring.
    pub warmup: Duration,
    /// How long to measure.
    pub time: Duration,
    /// The watcher is told what was done in each part of the measured time that is so long; `None`: at the end alone.
    pub interval: Option<Duration>,
    /// Use only so much of the device, from its beginning.
    pub span_bytes: Option<u64>,
    /// Stamp what is written and check what is read.
    pub verify: bool,
    /// Where random numbers come from.
    pub seed: u64,
}

impl Job {
    /// Whether any request writes.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.read_percent < 100
    }

    /// The operation of a request that there is only one kind of.
    pub(crate) fn only_op(&self) -> Option<Op> {
        match self.read_percent {
            0 => Some(Op::Write),
            100.. => Some(Op::Read),
            _ => None,
        }
    }

    /// Checks it against the target; returns the blocks of each queue's part.
    pub(crate) fn blocks_per_queue(&self, target: &Geometry) -> Result<u64, Error> {
        let refuse =
            |what: String, why: String| Err(Error::Job { target: target.name.to_string(), what, why });
        let unit = target.block_size.max(512);
        if self.block_bytes == 0
            || self.block_bytes > MAX_BLOCK_BYTES
            || !self.block_bytes.is_multiple_of(unit)
        {
            let why = format!("allowed: a multiple of its block size of {unit}, at most {MAX_BLOCK_BYTES}");
            return refuse(format!("--bs {}", self.block_bytes), why);
        }
        if self.depth == 0 || self.depth > target.max_depth {
            return refuse(format!("--qd {}", self.depth), format!("allowed: 1 to {}", target.max_depth));
        }
        if self.queues == 0 || self.queues > target.max_queues {
            return refuse(
                format!("--queues {}", self.queues),
                format!("allowed: 1 to {}", target.max_queues),
            );
        }
        if self.cores.is_empty() || self.cores.len() > usize::from(self.queues) {
            let why =
                format!("{} queue(s) cannot use {} cores; give more --queues", self.queues, self.cores.len());
            return refuse("--cores".into(), why);
        }
        if self.completions == Completions::Interrupt && !target.interrupts {
            let why = "it sends no interrupts, because it is in this process; only poll is possible".into();
            return refuse("--completions interrupt".into(), why);
        }
        if target.read_only && (self.writes() || self.verify) {
            return refuse("--rw".into(), "it is read-only; use read or randread, without --verify".into());
        }
        let span_bytes = self.span_bytes.unwrap_or(target.size_bytes);
        if span_bytes > target.size_bytes {
            let why = format!("it has only {} bytes", target.size_bytes);
            return refuse(format!("--span {span_bytes}"), why);
        }
        let blocks = span_bytes / u64::from(self.block_bytes) / u64::from(self.queues);
        // In verify mode a block is never in flight twice, so there must be more of them than slots.
        if blocks == 0 || (self.verify && blocks < 2 * u64::from(self.depth)) {
            let why = format!(
                "{span_bytes} bytes give each queue only {blocks} blocks; take more, or less --bs or --qd"
            );
            return refuse("--span".into(), why);
        }
        if self.verify && blocks * u64::from(self.queues) > MAX_VERIFIED_BLOCKS {
            let why = format!("at most {MAX_VERIFIED_BLOCKS} blocks can be checked; limit them with --span");
            return refuse("--verify".into(), why);
        }
        Ok(blocks)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn job() -> Job {
        Job {
            access: Access::Random,
            read_percent: 100,
            block_bytes: 4096,
            depth: 32,
            queues: 1,
            cores: vec![0],
            completions: Completions::Poll,
            warmup: Duration::ZERO,
            time: Duration::from_millis(50),
            span_bytes: None,
            interval: None,
            verify: false,
            seed: 1,
        }
    }

    fn geometry() -> Geometry {
        Geometry {
            name: "null:x".into(),
            size_bytes: 1 << 20,
            block_size: 4096,
            read_only: true,
            max_queues: 2,
            max_depth: 64,
            interrupts: false,
        }
    }

    #[test]
    fn what_cannot_be_done_is_told() {
        let good = job();
        assert_eq!(good.blocks_per_queue(&geometry()).unwrap(), 256);
        let cases = [
            (
                Job { block_bytes: 512, ..good.clone() },
                "--bs 512: allowed: a multiple of its block size of 4096",
            ),
            (Job { depth: 65, ..good.clone() }, "--qd 65: allowed: 1 to 64"),
            (Job { queues: 3, ..good.clone() }, "--queues 3: allowed: 1 to 2"),
            (Job { cores: vec![0, 1], ..good.clone() }, "--cores: 1 queue(s) cannot use 2 cores"),
            (
                Job { completions: Completions::Interrupt, ..good.clone() },
                "--completions interrupt: it sends no interrupts",
            ),
            (Job { read_percent: 99, ..good.clone() }, "--rw: it is read-only"),
            (Job { span_bytes: Some(2 << 20), ..good.clone() }, "--span 2097152: it has only 1048576 bytes"),
            (
                Job { block_bytes: 1 << 20, queues: 2, ..good },
                "--span: 1048576 bytes give each queue only 0 blocks",
            ),
        ];
        for (bad, want) in cases {
            let message = bad.blocks_per_queue(&geometry()).unwrap_err().to_string();
            assert!(message.contains(want) && message.contains("null:x"), "{message}\n{want}");
        }
    }
}
