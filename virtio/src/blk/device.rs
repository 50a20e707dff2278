//! What a virtio-blk device offers: feature bits and configuration space, derived from the bdev under it.
//!
//! All of it is fixed but the capacity, which is the bdev's size whenever somebody looks. When that has grown, queues that
//! run serve the new part already; to tell the driver is the transport's business (5.2.4, "configuration change").

use spinblk_bdev::Info;
use virtio_bindings::{virtio_blk as blk, virtio_config as config, virtio_ring as ring};

use super::request::{MAX_DISCARD_SECTORS, SECTOR_BYTES, SERIAL_BYTES};

/// Size of `struct virtio_blk_config` up to and including write_zeroes_may_unmap and its padding (5.2.4).
const CONFIG_BYTES: usize = 60;
/// The capacity, the one field that changes, has the first bytes of the configuration space.
pub const CAPACITY_BYTES: usize = 8;
/// Data segments per request at most; a header and a status come on top.
pub(super) const SEG_MAX: u32 = 126;
/// Longest segment: VDUSE's cache of free bounce addresses keeps those up to 128 KiB.
pub(super) const SIZE_MAX_BYTES: u32 = 128 << 10;

/// What the configuration decides about a device, beyond its bdev.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Virtqueues.
    pub queues: u16,
    /// Entries of each.
    pub queue_size: u16,
    /// What the guest reads as the disk's serial; cut to 20 bytes.
    pub serial: String,
    /// Whether to offer indirect descriptors.
    pub indirect: bool,
    /// Whether to offer EVENT_IDX.
    pub event_idx: bool,
    /// Whether to offer packed rings.
    pub packed: bool,
    /// Whether interrupts may be held for a moment when the driver is busy submitting.
    pub coalesce: bool,
}

/// One virtio-blk device, shared by its queues.
#[derive(Clone, Debug)]
pub struct Device {
    info: Info,
    options: DeviceOptions,
}

impl Device {
    /// A device for the bdev that `info` describes.
    #[must_use]
    pub fn new(info: Info, options: DeviceOptions) -> Self {
        Self { info, options }
    }

    /// The bdev's description.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Virtqueues.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.options.queues
    }

    /// Whether interrupts may be held for a moment.
    #[must_use]
    pub fn coalesces(&self) -> bool {
        self.options.coalesce
    }

    /// The 20 bytes that GET_ID answers with, padded with zeroes (5.2.6.1).
    #[must_use]
    pub fn serial(&self) -> [u8; SERIAL_BYTES] {
        let mut serial = [0; SERIAL_BYTES];
        for (to, from) in serial.iter_mut().zip(self.options.serial.bytes()) {
            *to = from;
        }
        serial
    }

    /// The feature bits offered (5.2.3, 6).
    #[must_use]
    pub fn features(&self) -> u64 {
        let caps = self.info.caps;
        let writable = !self.info.read_only;
        let offered = [
            (config::VIRTIO_F_VERSION_1, true),
            (config::VIRTIO_F_ACCESS_PLATFORM, true),
            (ring::VIRTIO_RING_F_INDIRECT_DESC, self.options.indirect),
            (ring::VIRTIO_RING_F_EVENT_IDX, self.options.event_idx),
            (config::VIRTIO_F_RING_PACKED, self.options.packed),
            (blk::VIRTIO_BLK_F_SIZE_MAX, true),
            (blk::VIRTIO_BLK_F_SEG_MAX, true),
            (blk::VIRTIO_BLK_F_BLK_SIZE, true),
            (blk::VIRTIO_BLK_F_TOPOLOGY, true),
            (blk::VIRTIO_BLK_F_MQ, self.options.queues > 1),
            (blk::VIRTIO_BLK_F_RO, self.info.read_only),
            (blk::VIRTIO_BLK_F_FLUSH, caps.flush),
            (blk::VIRTIO_BLK_F_DISCARD, caps.discard && writable),
            (blk::VIRTIO_BLK_F_WRITE_ZEROES, caps.write_zeroes && writable),
        ];
        offered.iter().filter(|(_, on)| *on).fold(0, |bits, (bit, _)| bits | 1 << bit)
    }

    /// No chain may be longer than the queue (2.7.5.3.1), and without indirect tables none could be: a driver that was
    /// promised more would wait for ever for descriptors.
    fn seg_max(&self) -> u32 {
        u32::from(self.options.queue_size.saturating_sub(2)).clamp(1, SEG_MAX)
    }

    /// The configuration space, little-endian (5.2.4), with the capacity of this moment.
    #[must_use]
    pub fn config_space(&self) -> [u8; CONFIG_BYTES] {
        let info = &self.info;
        let physical_exp = (info.physical_block_size / info.block_size).max(1).ilog2();
        let block_sectors = info.block_size / SECTOR_BYTES as u32;
        let mut space = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(info.size_bytes() / SECTOR_BYTES).to_le_bytes()); // capacity, in sectors
        put(8, &SIZE_MAX_BYTES.to_le_bytes());
        put(12, &self.seg_max().to_le_bytes());
        put(20, &info.block_size.to_le_bytes());
        put(24, &[physical_exp as u8, 0]); // physical block exponent, alignment offset
        put(26, &1u16.to_le_bytes()); // smallest I/O that is no loss, in blocks
        put(28, &0u32.to_le_bytes()); // best I/O size: no advice
        put(34, &self.options.queues.to_le_bytes());
        if info.caps.discard {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &1u32.to_le_bytes()); // segments per request
            put(44, &block_sectors.to_le_bytes()); // alignment
        }
        if info.caps.write_zeroes {
            put(48, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(52, &1u32.to_le_bytes());
            put(56, &[u8::from(info.caps.discard)]); // may unmap
        }
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(configure: impl FnOnce(&mut Info)) -> Device {
        let mut info = Info::new("t", 1 << 20, 4096).unwrap();
        configure(&mut info);
        let options = DeviceOptions {
            queues: 3,
            queue_size: 256,
            serial: "SER".into(),
            indirect: true,
            event_idx: true,
            packed: true,
            coalesce: true,
        };
        Device::new(info, options)
    }

    fn has(device: &Device, bit: u32) -> bool {
        device.features() & 1 << bit != 0
    }

    #[test]
    fn offers_what_the_bdev_can_do_and_no_more() {
        let plain = device(|_| {});
        assert!(!has(&plain, blk::VIRTIO_BLK_F_FLUSH) && !has(&plain, blk::VIRTIO_BLK_F_DISCARD));
        assert!(has(&plain, blk::VIRTIO_BLK_F_MQ) && has(&plain, config::VIRTIO_F_VERSION_1));
        let able = device(|info| info.caps.discard = true);
        assert!(has(&able, blk::VIRTIO_BLK_F_DISCARD) && !has(&able, blk::VIRTIO_BLK_F_WRITE_ZEROES));
        let read_only = device(|info| {
            info.caps.discard = true;
            info.read_only = true;
        });
        assert!(has(&read_only, blk::VIRTIO_BLK_F_RO) && !has(&read_only, blk::VIRTIO_BLK_F_DISCARD));
    }

    #[test]
    fn config_space_is_laid_out_as_the_header_says() {
        let device = device(|info| {
            info.caps = spinblk_bdev::Capabilities { flush: true, discard: true, write_zeroes: true }
        });
        let space = device.config_space();
        // SAFETY: virtio_blk_config is plain integers, and unaligned reading is asked for.
        let config: blk::virtio_blk_config = unsafe {
            let mut whole = [0u8; size_of::<blk::virtio_blk_config>()];
            whole[..space.len().min(size_of::<blk::virtio_blk_config>())]
                .copy_from_slice(&space[..space.len().min(size_of::<blk::virtio_blk_config>())]);
            std::ptr::read_unaligned(whole.as_ptr().cast())
        };
        let (capacity, blk_size, queues) = (config.capacity, config.blk_size, config.num_queues);
        assert_eq!((capacity, blk_size, queues), (2048, 4096, 3));
        let (seg_max, size_max) = (config.seg_max, config.size_max);
        assert_eq!((seg_max, size_max), (SEG_MAX, SIZE_MAX_BYTES));
        let (sectors, segments, align) =
            (config.max_discard_sectors, config.max_discard_seg, config.discard_sector_alignment);
        assert_eq!((sectors, segments, align), (MAX_DISCARD_SECTORS, 1, 8));
        let (zero_sectors, zero_segments, unmap) =
            (config.max_write_zeroes_sectors, config.max_write_zeroes_seg, config.write_zeroes_may_unmap);
        assert_eq!((zero_sectors, zero_segments, unmap), (MAX_DISCARD_SECTORS, 1, 1));
    }

    #[test]
    fn the_capacity_is_the_bdevs_and_nothing_else_changes_with_it() {
        use spinblk_bdev::{Bdev, Null, NullReads};

        let bdev = Null::new("n0", 1 << 20, 4096, NullReads::Untouched).unwrap();
        let device = Device::new(bdev.info().clone(), device(|_| {}).options);
        let (features, before) = (device.features(), device.config_space());
        assert_eq!(before[..CAPACITY_BYTES], 2048u64.to_le_bytes());
        bdev.resize(Some(3 << 40)).unwrap();
        let after = device.config_space();
        assert_eq!(after[..CAPACITY_BYTES], (3u64 << 31).to_le_bytes());
        assert_eq!((device.features(), &after[CAPACITY_BYTES..]), (features, &before[CAPACITY_BYTES..]));
    }

    #[test]
    fn serials_are_cut_and_padded() {
        assert_eq!(&device(|_| {}).serial()[..4], b"SER\0");
        let info = Info::new("t", 1 << 20, 512).unwrap();
        let options = DeviceOptions {
            queues: 1,
            queue_size: 16,
            serial: "x".repeat(30),
            indirect: true,
            event_idx: true,
            packed: true,
            coalesce: true,
        };
        let device = Device::new(info, options);
        assert_eq!(device.serial(), [b'x'; 20]);
        assert_eq!(device.config_space()[12..16], 14u32.to_le_bytes(), "segments that fit into 16 entries");
    }
}
