//! Where the parts of a queue lie in shared memory.
//!
//! ```text
//!   queue 0: | descriptors | avail | used | headers | statuses | data of slot 0, 1, … |   queue 1: …
//! ```
//! Each part starts on cache lines of its own (two, because processors fetch them in pairs), data on a page. What the
//! driver writes and what the device writes never share a line. Headers and statuses of neighbouring slots do share
//! lines among themselves: slots finish about in the order in which they started, so a batch touches few lines.

/// Descriptors of one slot: header, data, status, and one unused that makes it a cache line.
pub(super) const DESCS_PER_SLOT: u32 = 4;
/// Most entries that servers take in one ring.
const MAX_RING_SIZE: u32 = 1024;
/// Most slots of one queue.
pub(super) const MAX_DEPTH: u32 = MAX_RING_SIZE / DESCS_PER_SLOT;
pub(super) const DESC_BYTES: usize = 16;
pub(super) const HEADER_BYTES: usize = 16;
const LINES: usize = 128;
const PAGE: usize = 4096;

/// Offsets of one queue's parts from the beginning of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) ring_size: u16,
    pub(super) depth: u32,
    pub(super) block_bytes: usize,
    pub(super) desc: usize,
    pub(super) avail: usize,
    pub(super) used: usize,
    pub(super) headers: usize,
    pub(super) statuses: usize,
    pub(super) data: usize,
    pub(super) end: usize,
}

impl Layout {
    /// The layout of `queue` when each has `depth` (at most [`MAX_DEPTH`]) slots of `block_bytes`.
    pub(super) fn new(queue: u16, depth: u32, block_bytes: u32) -> Self {
        let ring_size = (depth.min(MAX_DEPTH) * DESCS_PER_SLOT).next_power_of_two();
        let (entries, slots, block_bytes) = (ring_size as usize, depth as usize, block_bytes as usize);
        let avail = (entries * DESC_BYTES).next_multiple_of(LINES);
        let used = avail + (6 + 2 * entries).next_multiple_of(LINES);
        let headers = used + (6 + 8 * entries).next_multiple_of(LINES);
        let statuses = headers + (slots * HEADER_BYTES).next_multiple_of(LINES);
        let data = statuses + slots.next_multiple_of(LINES);
        let data = data.next_multiple_of(PAGE);
        let end = (data + slots * block_bytes).next_multiple_of(PAGE);
        let start = usize::from(queue) * end;
        Self {
            ring_size: ring_size as u16,
            depth,
            block_bytes,
            desc: start,
            avail: start + avail,
            used: start + used,
            headers: start + headers,
            statuses: start + statuses,
            data: start + data,
            end: start + end,
        }
    }

    /// Where the data of a slot lies.
    pub(super) fn data_of(&self, slot: u32) -> usize {
        self.data + slot as usize * self.block_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_queues_do_not_overlap() {
        for (depth, block_bytes) in [(1, 512), (3, 4096), (32, 4096), (256, 65536)] {
            let (first, second) = (Layout::new(0, depth, block_bytes), Layout::new(1, depth, block_bytes));
            let entries = usize::from(first.ring_size);
            assert!(first.ring_size.is_power_of_two() && entries >= depth as usize * 4);
            assert!(first.desc + 16 * entries <= first.avail && first.avail + 6 + 2 * entries <= first.used);
            assert!(first.used + 6 + 8 * entries <= first.headers);
            assert!(first.headers + 16 * depth as usize <= first.statuses);
            assert!(first.statuses + depth as usize <= first.data && first.data_of(depth) <= first.end);
            assert_eq!((second.desc, second.data - second.desc), (first.end, first.data));
            for at in [second.desc, second.avail, second.used, second.headers, second.statuses] {
                assert!(at.is_multiple_of(LINES));
            }
            assert!(second.data.is_multiple_of(PAGE));
        }
        assert_eq!(Layout::new(0, MAX_DEPTH, 512).ring_size, 1024);
    }
}
