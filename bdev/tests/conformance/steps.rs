//! Random I/Os. A throw of dice decides everything about one, so that a seed repeats a long run, and proptest shrinks a
//! short one: all dice at zero are the simplest step, a read of one block at the start, in one piece.

use proptest::prelude::*;
use spinblk_bdev::{Info, IoError, MAX_SEGMENTS, Op};

use crate::common::{ARENA_BYTES, Request, xorshift};

/// Long requests cross many chunks, bounce buffers and other limits; they leave room for skew and gaps.
const LONGEST_BYTES: u64 = 208 << 10;
const SMALL_BYTES: u64 = 16 << 10;
/// One step in so many is one that must be refused.
const FLAWED_ONE_IN: u32 = 24;

/// What decides about one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice([u32; 8]);

impl Dice {
    pub(crate) fn throw(random: &mut u64) -> Self {
        Self(std::array::from_fn(|_| (xorshift(random) >> 32) as u32))
    }

    /// Sequences of throws that shrink to fewer and smaller ones.
    pub(crate) fn sequences() -> impl Strategy<Value = Vec<Self>> {
        prop::collection::vec(any::<[u32; 8]>().prop_map(Self), 1..80)
    }
}

/// One I/O for one device, and what its maker knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) request: Request,
    /// The only answer that is right, for one that must be refused.
    pub(crate) refusal: Option<IoError>,
    /// Whether to look for completions after it, though nobody needs to wait.
    pub(crate) polls: bool,
}

impl Step {
    /// The step that the dice say, fitted to a device.
    pub(crate) fn new(Dice([what, place, length, pieces, cuts, skew, gap, flaw]): Dice, info: &Info) -> Self {
        let op = op(what);
        let transfers = matches!(op, Op::Read | Op::Write);
        let len_bytes = len_bytes(length, transfers, info);
        let places = (info.size_bytes() - len_bytes) / u64::from(info.block_size) + 1;
        let mut request = Request {
            op,
            offset_bytes: u64::from(place) % places * u64::from(info.block_size),
            len_bytes,
            lens: Vec::new(),
            skew: skew_bytes(skew),
            gap: gap_bytes(gap),
            fixed: skew / 8 % 2 == 1,
        };
        let mut refusal = if able(op, info) { None } else { Some(IoError::Unsupported) };
        let flawed = flaw % FLAWED_ONE_IN == FLAWED_ONE_IN - 1 && op != Op::Flush && refusal.is_none();
        let (flawed_memory, flaw) = (transfers && flaw / FLAWED_ONE_IN % 4 == 1, flaw / FLAWED_ONE_IN / 4);
        if flawed && !flawed_memory {
            refusal = Some(spoil_range(&mut request, flaw, info));
        }
        if transfers {
            request.lens = lens(pieces, cuts, request.len_bytes as usize);
        }
        if flawed && flawed_memory {
            refusal = Some(spoil_memory(&mut request));
        }
        if request.skew + request.span_bytes() > ARENA_BYTES {
            request.gap = 0;
        }
        Self { request, refusal, polls: place % 4 == 1 }
    }
}

fn able(op: Op, info: &Info) -> bool {
    match op {
        Op::Discard => info.caps.discard,
        Op::WriteZeroes { .. } => info.caps.write_zeroes,
        _ => true,
    }
}

fn op(die: u32) -> Op {
    match die % 256 {
        0..=119 => Op::Read,
        120..=239 => Op::Write,
        240..=246 => Op::WriteZeroes { unmap: die / 256 % 2 == 1 },
        247..=253 => Op::Discard,
        _ => Op::Flush,
    }
}

/// Whole blocks: mostly a few, sometimes none, sometimes many; and all there are, where that takes no memory.
fn len_bytes(die: u32, transfers: bool, info: &Info) -> u64 {
    let most_bytes = match die % 32 {
        0..=26 => SMALL_BYTES,
        27 => return 0,
        28..=29 => 64 << 10,
        30 if !transfers && (die / 32).is_multiple_of(8) => return info.size_bytes(),
        _ => LONGEST_BYTES,
    };
    let block_size = u64::from(info.block_size);
    let most_blocks = (most_bytes / block_size).min(info.blocks()).max(1);
    (1 + u64::from(die / 32) % most_blocks) * block_size
}

fn skew_bytes(die: u32) -> usize {
    match die % 8 {
        0..=3 => 0,
        4 => 512,
        5 => 4,
        6 => 512 * (die as usize / 16 % 8),
        _ => 1 + die as usize / 16 % 4096,
    }
}

fn gap_bytes(die: u32) -> usize {
    match die % 8 {
        0..=4 => 0,
        5 => 512,
        6 => 4096,
        _ => 1 + die as usize / 8 % 100,
    }
}

/// The lengths of pieces that add up to `len_bytes`; some are odd, some empty.
fn lens(pieces: u32, cuts: u32, len_bytes: usize) -> Vec<usize> {
    let rest = pieces as usize / 32;
    let count = match pieces % 32 {
        0..=16 => 1,
        17..=26 => 2 + rest % 5,
        27..=30 => 2 + rest % (MAX_SEGMENTS - 1),
        // More than a channel needs to take.
        _ => MAX_SEGMENTS + 1 + rest % 200,
    };
    let grid = [512, 512, 512, 1, 4][cuts as usize % 5];
    let mut random = u64::from(cuts) << 1 | 1;
    let mut place = || xorshift(&mut random) as usize % (len_bytes + 1) / grid * grid;
    let mut ends: Vec<usize> = (1..count).map(|_| place()).collect();
    ends.sort_unstable();
    ends.push(len_bytes);
    let mut start = 0;
    ends.into_iter().map(|end| end - std::mem::replace(&mut start, end)).collect()
}

/// Moves the range off the grid or beyond the end; what must be answered.
fn spoil_range(request: &mut Request, die: u32, info: &Info) -> IoError {
    let block_size = u64::from(info.block_size);
    let odd_bytes = 1 + u64::from(die / 8) % (block_size - 1);
    match die % 8 {
        0..=1 => {
            request.offset_bytes = request.offset_bytes.max(block_size) - odd_bytes;
            IoError::Misaligned
        }
        2..=3 => {
            request.len_bytes = request.len_bytes.max(block_size) - odd_bytes;
            IoError::Misaligned
        }
        4..=5 => {
            request.offset_bytes = info.size_bytes() - request.len_bytes + block_size;
            IoError::OutOfRange
        }
        6 => {
            request.offset_bytes = info.size_bytes() + block_size * (1 + u64::from(die / 8));
            IoError::OutOfRange
        }
        // Its end is beyond all numbers, or just within them.
        _ => {
            request.offset_bytes = u64::MAX - block_size + 1;
            IoError::OutOfRange
        }
    }
}

/// Takes a byte of memory away, or adds one to none.
fn spoil_memory(request: &mut Request) -> IoError {
    match request.lens.iter_mut().find(|len_bytes| **len_bytes > 0) {
        Some(len_bytes) => *len_bytes -= 1,
        None => request.lens.push(1),
    }
    IoError::Misaligned
}
