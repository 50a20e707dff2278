//! Where the parts of a queue lie in shared memory, and how large its ring must be.
//!
//! ```text
//!   queue 0: | descriptors | driver area | device area | tables | headers | statuses | data of slot 0, 1, … |   queue 1: …
//! ```
//! Each part starts on cache lines of its own (two, because processors fetch them in pairs), data on a page. What the
//! driver writes and what the device writes never share a line, but for a packed ring's descriptors, which both write.
//! Headers and statuses of neighbouring slots do share lines among themselves: slots finish about in the order in
//! which they started, so a batch touches few lines.
//!
//! The server has the last word on the size of a ring, and tells its limit only by refusing. Hence the least number of
//! entries per request that is cheap: with indirect descriptors one; else three in a packed ring, and four in a split
//! one, whose chains stay where they are and so get a cache line each.

use crate::RingOptions;

/// The two formats of a virtqueue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingFormat {
    /// Section 2.7 of the virtio specification.
    #[default]
    Split,
    /// Section 2.8.
    Packed,
}

impl RingFormat {
    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Packed => "packed",
        }
    }

    /// Where a new ring begins, as vhost has it. Packed: next available and next used place are 0 (bits 0-14, 16-30),
    /// both wrap counters 1.
    pub(crate) fn base(self) -> u32 {
        match self {
            Self::Split => 0,
            Self::Packed => 0x8000_8000,
        }
    }
}

/// Descriptors of a table: header, data, status, and one unused that makes it a cache line.
pub(crate) const TABLE_DESCS: u32 = 4;
/// Descriptors of a chain.
pub(crate) const CHAIN_DESCS: u16 = 3;
/// Most slots of one queue, of either format: four entries each still fit into the longest ring there is, 32768.
pub(crate) const MAX_DEPTH: u32 = 4096;
/// No server serves less.
const MIN_RING_SIZE: u32 = 4;
pub(crate) const DESC_BYTES: usize = 16;
pub(crate) const TABLE_BYTES: usize = TABLE_DESCS as usize * DESC_BYTES;
pub(crate) const HEADER_BYTES: usize = 16;
/// A packed ring's event suppression structure (2.8.10).
pub(crate) const EVENT_BYTES: usize = 4;
const LINES: usize = 128;
const PAGE: usize = 4096;

/// What all queues of a session have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) format: RingFormat,
    pub(crate) indirect: bool,
    /// At most [`MAX_DEPTH`].
    pub(crate) depth: u32,
    pub(crate) block_bytes: u32,
    /// Whether packed rings, too, must be powers of two: the kernel's vhost takes no others.
    pub(crate) power_of_two: bool,
}

impl Shape {
    /// Of the queues that these options describe.
    pub(crate) fn new(options: &RingOptions, power_of_two: bool) -> Self {
        let RingOptions { format, indirect, depth, block_bytes, .. } = *options;
        Self { format, indirect, depth, block_bytes, power_of_two }
    }

    /// Ring entries that a request in flight takes.
    pub(crate) fn entries_per_slot(self) -> u16 {
        match (self.indirect, self.format) {
            (true, _) => 1,
            (false, RingFormat::Split) => TABLE_DESCS as u16,
            (false, RingFormat::Packed) => CHAIN_DESCS,
        }
    }

    /// A power of two, as split rings must have; a packed ring, if it may, of whole chains, so that none goes around its
    /// end, which devices may find slow.
    pub(crate) fn ring_size(self) -> u16 {
        let entries = self.depth.min(MAX_DEPTH) * u32::from(self.entries_per_slot());
        match (self.format, self.indirect || self.power_of_two) {
            (RingFormat::Packed, false) => entries.max(2 * u32::from(CHAIN_DESCS)) as u16,
            _ => entries.next_power_of_two().max(MIN_RING_SIZE) as u16,
        }
    }
}

/// Offsets of one queue's parts from the beginning of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) ring_size: u16,
    pub(crate) depth: u32,
    pub(crate) block_bytes: usize,
    pub(crate) indirect: bool,
    pub(crate) desc: usize,
    /// Avail ring, or the driver's event suppression.
    pub(crate) driver: usize,
    /// Used ring, or the device's event suppression.
    pub(crate) device: usize,
    /// Indirect tables, one for each slot.
    pub(crate) tables: usize,
    pub(crate) headers: usize,
    pub(crate) statuses: usize,
    pub(crate) data: usize,
    pub(crate) end: usize,
}

impl Layout {
    /// The layout of `queue` when all have this shape.
    pub(crate) fn new(queue: u16, shape: Shape) -> Self {
        let ring_size = shape.ring_size();
        let (entries, slots) = (usize::from(ring_size), shape.depth as usize);
        let block_bytes = shape.block_bytes as usize;
        let (driver_bytes, device_bytes) = match shape.format {
            RingFormat::Split => (6 + 2 * entries, 6 + 8 * entries),
            RingFormat::Packed => (EVENT_BYTES, EVENT_BYTES),
        };
        let table_bytes = if shape.indirect { slots * TABLE_BYTES } else { 0 };
        let driver = (entries * DESC_BYTES).next_multiple_of(LINES);
        let device = driver + driver_bytes.next_multiple_of(LINES);
        let tables = device + device_bytes.next_multiple_of(LINES);
        let headers = tables + table_bytes.next_multiple_of(LINES);
        let statuses = headers + (slots * HEADER_BYTES).next_multiple_of(LINES);
        let data = (statuses + slots.next_multiple_of(LINES)).next_multiple_of(PAGE);
        let end = (data + slots * block_bytes).next_multiple_of(PAGE);
        let start = usize::from(queue) * end;
        Self {
            ring_size,
            depth: shape.depth,
            block_bytes,
            indirect: shape.indirect,
            desc: start,
            driver: start + driver,
            device: start + device,
            tables: start + tables,
            headers: start + headers,
            statuses: start + statuses,
            data: start + data,
            end: start + end,
        }
    }

    /// Where the header of a slot lies.
    pub(crate) fn header_of(&self, slot: u32) -> usize {
        self.headers + slot as usize * HEADER_BYTES
    }

    /// Where the data of a slot lies.
    pub(crate) fn data_of(&self, slot: u32) -> usize {
        self.data + slot as usize * self.block_bytes
    }

    /// Where the status byte of a slot lies.
    pub(crate) fn status_of(&self, slot: u32) -> usize {
        self.statuses + slot as usize
    }

    /// Where the indirect table of a slot lies, if there is one.
    pub(crate) fn table_of(&self, slot: u32) -> usize {
        self.tables + slot as usize * TABLE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> impl Iterator<Item = Shape> {
        let sizes = [(1, 512), (3, 4096), (32, 4096), (256, 65536), (MAX_DEPTH, 512)];
        let formats = [RingFormat::Split, RingFormat::Packed];
        sizes.into_iter().flat_map(move |(depth, block_bytes)| {
            formats.into_iter().flat_map(move |format| {
                [(false, false), (true, false), (false, true), (true, true)].map(
                    move |(indirect, power_of_two)| Shape {
                        format,
                        indirect,
                        depth,
                        block_bytes,
                        power_of_two,
                    },
                )
            })
        })
    }

    #[test]
    fn parts_follow_each_other_and_queues_do_not_overlap() {
        for shape in shapes() {
            let (first, second) = (Layout::new(0, shape), Layout::new(1, shape));
            let (entries, depth) = (usize::from(first.ring_size), shape.depth as usize);
            let (driver, device) = match shape.format {
                RingFormat::Split => (6 + 2 * entries, 6 + 8 * entries),
                RingFormat::Packed => (4, 4),
            };
            assert!(first.desc + 16 * entries <= first.driver && first.driver + driver <= first.device);
            assert!(first.device + device <= first.tables);
            assert!(first.tables + if shape.indirect { 64 * depth } else { 0 } <= first.headers);
            assert!(first.headers + 16 * depth <= first.statuses);
            assert!(first.statuses + depth <= first.data && first.data_of(shape.depth) <= first.end);
            assert_eq!((second.desc, second.data - second.desc), (first.end, first.data));
            let starts =
                [second.desc, second.driver, second.device, second.tables, second.headers, second.statuses];
            assert!(starts.iter().all(|at| at.is_multiple_of(LINES)));
            assert!(second.data.is_multiple_of(PAGE));
        }
    }

    #[test]
    fn rings_hold_every_slot_and_are_no_larger_than_need_be() {
        for shape in shapes() {
            let (size, wanted) =
                (u32::from(shape.ring_size()), shape.depth * u32::from(shape.entries_per_slot()));
            assert!(size >= wanted && (size < 2 * wanted || size <= 2 * u32::from(CHAIN_DESCS)));
            match (shape.format, shape.indirect || shape.power_of_two) {
                (RingFormat::Packed, false) => assert!(size.is_multiple_of(CHAIN_DESCS.into())),
                _ => assert!(size.is_power_of_two()),
            }
        }
        let shape = |format, indirect, depth| Shape {
            format,
            indirect,
            depth,
            block_bytes: 512,
            power_of_two: false,
        };
        let size = |format, indirect, depth| shape(format, indirect, depth).ring_size();
        assert_eq!(size(RingFormat::Split, false, 64), 256);
        assert_eq!(size(RingFormat::Packed, false, 85), 255);
        assert_eq!(Shape { power_of_two: true, ..shape(RingFormat::Packed, false, 85) }.ring_size(), 256);
        assert_eq!(size(RingFormat::Packed, true, 1024), 1024);
        assert_eq!(size(RingFormat::Split, false, MAX_DEPTH), 16384);
    }
}
