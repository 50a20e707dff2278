//! Which I/Os a test module strikes: by operation, by place, by chance. Seeded, so that the same I/Os in the same order
//! are struck in the same way; each channel has a sequence of its own.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Info, Io, Op};

const MILLION: u32 = 1_000_000;

/// A set of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ops(u8);

impl Ops {
    /// No operation.
    pub const NONE: Self = Self(0);
    /// Reads.
    pub const READ: Self = Self(1);
    /// Writes.
    pub const WRITE: Self = Self(2);
    /// Flushes.
    pub const FLUSH: Self = Self(4);
    /// Discards.
    pub const DISCARD: Self = Self(8);
    /// Write-zeroes.
    pub const WRITE_ZEROES: Self = Self(16);
    /// Every operation.
    pub const ALL: Self = Self(31);

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `op` is in the set.
    #[must_use]
    pub const fn contains(self, op: Op) -> bool {
        let one = match op {
            Op::Read => Self::READ,
            Op::Write => Self::WRITE,
            Op::Flush => Self::FLUSH,
            Op::Discard => Self::DISCARD,
            Op::WriteZeroes { .. } => Self::WRITE_ZEROES,
        };
        self.0 & one.0 != 0
    }
}

/// Which I/Os are struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Those that do one of these operations,
    pub ops: Ops,
    /// and touch a byte in this range (a flush has no place and is in every range),
    pub range_bytes: Range<u64>,
    /// and of these so many in a million: 0 strikes none, 1,000,000 all.
    pub per_million: u32,
    /// Where the sequence of chances starts.
    pub seed: u64,
}

impl Default for Rule {
    /// Every I/O.
    fn default() -> Self {
        Self { ops: Ops::ALL, range_bytes: 0..u64::MAX, per_million: MILLION, seed: 0 }
    }
}

impl Rule {
    /// Refuses chances above one and ranges without a byte of device `info`.
    pub(crate) fn check(&self, info: &Info) -> Result<(), Error> {
        let refuse = |option, value, why| Err(Error::Option { name: info.name.clone(), option, value, why });
        if self.per_million > MILLION {
            return refuse("rate", self.per_million.to_string(), "it is above one in one");
        }
        let Range { start, end } = self.range_bytes;
        if start >= end || start >= info.size_bytes() {
            return refuse("range", format!("{start}..{end}"), "no byte of the device lies in it");
        }
        Ok(())
    }
}

/// One device's rule, and the source of its channels' sequences.
#[derive(Debug)]
pub(crate) struct Dice {
    rule: Rule,
    opened: AtomicU64,
}

impl Dice {
    pub(crate) fn new(rule: Rule) -> Self {
        Self { rule, opened: AtomicU64::new(0) }
    }

    /// The sequence of one more channel.
    pub(crate) fn open(&self) -> Cup {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        // Spread, so that neighbouring seeds and channels have nothing in common; never zero, where xorshift stands still.
        let mixed =
            (self.rule.seed ^ number.rotate_left(32)).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Cup { rule: self.rule.clone(), state: (mixed ^ (mixed >> 29)) | 1 }
    }
}

/// One channel's sequence of chances.
#[derive(Debug)]
pub(crate) struct Cup {
    rule: Rule,
    state: u64,
}

impl Cup {
    /// Whether this I/O is struck. Only I/Os that the rule speaks of move the sequence on.
    pub(crate) fn strikes(&mut self, io: &Io) -> bool {
        self.speaks_of(io) && self.below(u64::from(MILLION)) < u64::from(self.rule.per_million)
    }

    fn speaks_of(&self, io: &Io) -> bool {
        let Range { start, end } = self.rule.range_bytes;
        let io_end = io.offset_bytes().saturating_add(io.len_bytes());
        let touches = start.max(io.offset_bytes()) < end.min(io_end);
        self.rule.ops.contains(io.op()) && (io.op() == Op::Flush || touches)
    }

    /// A number below `bound`, which is small against 2^64: the bias is nothing here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(op: Op, offset: u64, len: u64) -> Io {
        // SAFETY: only the numbers are looked at.
        unsafe { Io::new(op, offset, len, &[], None, 0) }
    }

    fn strikes(cup: &mut Cup, op: Op, count: usize) -> usize {
        (0..count).filter(|_| cup.strikes(&io(op, 4096, 4096))).count()
    }

    #[test]
    fn a_rule_strikes_by_operation_place_and_rate() {
        let rule =
            Rule { ops: Ops::READ.and(Ops::FLUSH), range_bytes: 4096..8192, per_million: MILLION, seed: 1 };
        let mut cup = Dice::new(rule).open();
        let cases = [
            (Op::Read, 4096, 4096, true),
            (Op::Read, 0, 4097, true),
            (Op::Read, 0, 4096, false),
            (Op::Read, 8192, 512, false),
            (Op::Read, 4096, 0, false),
            (Op::Read, 5000, 0, false),
            (Op::Write, 4096, 4096, false),
            (Op::Discard, 4096, 4096, false),
            (Op::Flush, 0, 0, true),
            (Op::Read, u64::MAX, 4096, false),
        ];
        for (op, offset, len, want) in cases {
            assert_eq!(cup.strikes(&io(op, offset, len)), want, "{op:?} {offset} {len}");
        }
    }

    #[test]
    fn a_rate_is_kept_and_a_seed_repeats() {
        let rule = |per_million, seed| Rule { per_million, seed, ..Rule::default() };
        assert_eq!(strikes(&mut Dice::new(rule(0, 1)).open(), Op::Read, 1000), 0);
        let tenth = strikes(&mut Dice::new(rule(100_000, 1)).open(), Op::Read, 10_000);
        assert!((900..1100).contains(&tenth), "{tenth}");
        let run = |cup: &mut Cup| (0..64).map(|_| cup.strikes(&io(Op::Read, 0, 512))).collect::<Vec<_>>();
        let (one, other) = (Dice::new(rule(500_000, 1)), Dice::new(rule(500_000, 1)));
        let first = run(&mut one.open());
        assert_eq!(run(&mut other.open()), first);
        assert_ne!(run(&mut one.open()), first, "the second channel repeats the first");
        assert_ne!(run(&mut Dice::new(rule(500_000, 2)).open()), first);
    }

    #[test]
    fn senseless_rules_are_refused() {
        let info = Info::new("t", 1 << 20, 512).unwrap();
        let text = |rule: Rule| rule.check(&info).unwrap_err().to_string();
        assert!(text(Rule { per_million: MILLION + 1, ..Rule::default() }).contains("t: rate 1000001"));
        assert!(text(Rule { range_bytes: 1 << 20..2 << 20, ..Rule::default() }).contains("no byte"));
        assert!(Rule::default().check(&info).is_ok());
    }
}
