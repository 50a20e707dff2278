//! What each block of a queue's part should hold: its generation, and whether it is in flight.
//!
//! Contract: a block is in flight at most once, so that what it holds afterwards is known.

const IN_FLIGHT: u32 = 1 << 31;
/// A write failed: nobody knows what the block holds.
const UNKNOWN: u32 = 1 << 30;
const GENERATION: u32 = UNKNOWN - 1;

/// One word for each block.
#[derive(Debug)]
pub(crate) struct Ledger {
    blocks: Vec<u32>,
}

impl Ledger {
    pub(crate) fn new(blocks: usize) -> Self {
        Self { blocks: vec![0; blocks] }
    }

    /// The first block from `start` on, round the end, that is not in flight. There are twice as many blocks as slots.
    pub(crate) fn free_from(&self, start: usize) -> usize {
        let free = |index: &usize| self.blocks[*index] & IN_FLIGHT == 0;
        (start..self.blocks.len()).chain(0..start).find(free).unwrap_or(start)
    }

    /// The first block from `start` on whose content is known; not round the end.
    pub(crate) fn known_from(&self, start: usize) -> Option<usize> {
        (start..self.blocks.len()).find(|&index| self.generation(index).is_some())
    }

    /// What the block holds; `None` when it was never written or a write of it failed.
    pub(crate) fn generation(&self, block: usize) -> Option<u64> {
        let generation = self.blocks[block] & GENERATION;
        (generation > 0 && self.blocks[block] & UNKNOWN == 0).then_some(generation.into())
    }

    /// The generation that the next write of the block carries.
    pub(crate) fn next_generation(&self, block: usize) -> u64 {
        u64::from((self.blocks[block] & GENERATION).wrapping_add(1) & GENERATION).max(1)
    }

    /// The block goes into flight.
    pub(crate) fn begin(&mut self, block: usize) {
        debug_assert!(self.blocks[block] & IN_FLIGHT == 0, "block {block} is in flight twice");
        self.blocks[block] |= IN_FLIGHT;
    }

    /// A read of the block has ended.
    pub(crate) fn end_read(&mut self, block: usize) {
        self.blocks[block] &= !IN_FLIGHT;
    }

    /// A write of the block has ended.
    pub(crate) fn end_write(&mut self, block: usize, ok: bool) {
        let generation = self.next_generation(block) as u32;
        self.blocks[block] = if ok { generation } else { generation | UNKNOWN };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_flight_are_passed_over() {
        let mut ledger = Ledger::new(4);
        ledger.begin(2);
        ledger.begin(3);
        assert_eq!((ledger.free_from(1), ledger.free_from(2), ledger.free_from(3)), (1, 0, 0));
        ledger.end_read(3);
        assert_eq!(ledger.free_from(2), 3);
    }

    #[test]
    fn generations_grow_and_failed_writes_are_unknown() {
        let mut ledger = Ledger::new(2);
        assert_eq!(ledger.generation(1), None);
        for generation in 1..=3 {
            ledger.begin(1);
            ledger.end_write(1, true);
            assert_eq!(ledger.generation(1), Some(generation));
        }
        assert_eq!((ledger.known_from(0), ledger.known_from(2)), (Some(1), None));
        ledger.begin(1);
        ledger.end_write(1, false);
        assert_eq!((ledger.generation(1), ledger.known_from(0)), (None, None));
        // What the failed write may have left must not pass for a later one.
        assert_eq!(ledger.next_generation(1), 5);
    }
}
