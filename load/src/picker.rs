//! Chooses the next request: what, and on which block of a queue's part.

use crate::job::{Access, Job};
use crate::rng::Rng;
use crate::target::Op;

/// An endless workload, or one pass over all blocks.
#[derive(Clone, Debug)]
pub(crate) enum Picker {
    /// Blocks anywhere.
    Random { rng: Rng, blocks: u64, mix: Mix },
    /// Blocks in turn, round and round.
    Sequential { rng: Rng, blocks: u64, mix: Mix, next: u64 },
    /// Every block once.
    Sweep { op: Op, blocks: u64, next: u64 },
}

/// How reads and writes are mixed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    only: Option<Op>,
    read_percent: u64,
}

impl Mix {
    #[inline]
    fn pick(self, rng: &mut Rng) -> Op {
        match self.only {
            Some(op) => op,
            None if rng.below(100) < self.read_percent => Op::Read,
            None => Op::Write,
        }
    }
}

impl Picker {
    /// The workload of `job` on `queue`, whose part has so many blocks.
    pub(crate) fn new(job: &Job, queue: u16, blocks: u64) -> Self {
        let rng = Rng::new(job.seed.wrapping_add(u64::from(queue) << 32));
        let mix = Mix { only: job.only_op(), read_percent: job.read_percent.into() };
        match job.access {
            Access::Random => Self::Random { rng, blocks, mix },
            Access::Sequential => Self::Sequential { rng, blocks, mix, next: 0 },
        }
    }

    /// One pass over all blocks.
    pub(crate) fn sweep(op: Op, blocks: u64) -> Self {
        Self::Sweep { op, blocks, next: 0 }
    }

    /// The next request; `None` at the end of a pass.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<(Op, u64)> {
        match self {
            Self::Random { rng, blocks, mix } => Some((mix.pick(rng), rng.below(*blocks))),
            Self::Sequential { rng, blocks, mix, next } => {
                let block = *next;
                *next = if block + 1 == *blocks { 0 } else { block + 1 };
                Some((mix.pick(rng), block))
            }
            Self::Sweep { op, blocks, next } => {
                let block = *next;
                (block < *blocks).then(|| {
                    *next += 1;
                    (*op, block)
                })
            }
        }
    }

    /// Goes on behind `block`, where a caller has skipped some.
    pub(crate) fn skip_to_after(&mut self, block: u64) {
        if let Self::Sequential { next, .. } | Self::Sweep { next, .. } = self {
            *next = block + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;

    #[test]
    fn random_offsets_cover_their_range_and_nothing_else() {
        let mut picker = Picker::new(&job(), 3, 50);
        let mut seen = [false; 50];
        for _ in 0..5000 {
            let (op, block) = picker.next().unwrap();
            assert_eq!(op, Op::Read);
            seen[usize::try_from(block).unwrap()] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn sequential_goes_round_and_a_sweep_ends() {
        let mut round = Picker::new(&Job { access: Access::Sequential, ..job() }, 0, 3);
        let blocks: Vec<u64> = (0..7).filter_map(|_| round.next()).map(|(_, block)| block).collect();
        assert_eq!(blocks, [0, 1, 2, 0, 1, 2, 0]);
        let mut sweep = Picker::sweep(Op::Write, 3);
        assert_eq!(sweep.next(), Some((Op::Write, 0)));
        sweep.skip_to_after(1);
        assert_eq!(sweep.next(), Some((Op::Write, 2)));
        assert_eq!((sweep.next(), sweep.next()), (None, None));
    }

    #[test]
    fn the_mix_is_kept() {
        let mut picker = Picker::new(&Job { read_percent: 70, ..job() }, 0, 1 << 20);
        let reads = (0..100_000).filter(|_| matches!(picker.next(), Some((Op::Read, _)))).count();
        assert!((69_000..71_000).contains(&reads), "{reads}");
    }
}
