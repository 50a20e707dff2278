//! What a log file says about itself: whose it is, and how it is laid out.
//!
//! ```text
//!   magic 8 │ version 4 │ queues 2 │ queue_size 2 │ region_len 8 │ device 8 │ features 8 │ size 8 │ serial 20 │ name 256
//!   │ CRC-32 of all before 4
//! ```
//! All integers are in the host's byte order: the file never leaves the machine.

use spinblk_virtio::{InFlightLog, RingKind};

const MAGIC: [u8; 8] = *b"spinblk!";
const VERSION: u32 = 1;
const SERIAL_BYTES: usize = 20;
const NAME_BYTES: usize = 256;
/// Bit of VIRTIO_F_RING_PACKED.
const RING_PACKED: u64 = 1 << virtio_bindings::virtio_config::VIRTIO_F_RING_PACKED;

/// Bytes of a header, its checksum included.
pub(super) const HEADER_BYTES: usize = 72 + NAME_BYTES;
const CHECKSUM_AT: usize = HEADER_BYTES - size_of::<u32>();

/// The disk that a log belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// Which of the devices that ever had this name.
    pub(crate) device: u64,
    pub(crate) queues: u16,
    /// Entries of a queue at most.
    pub(crate) queue_size: u16,
    /// The features offered to the driver.
    pub(crate) features: u64,
    pub(crate) size_bytes: u64,
    pub(crate) serial: [u8; SERIAL_BYTES],
}

impl Identity {
    /// What one queue's log takes, whichever of the formats on offer its driver takes.
    pub(super) fn region_len_bytes(&self) -> usize {
        let kind = if self.features & RING_PACKED != 0 { RingKind::Packed } else { RingKind::Split };
        InFlightLog::region_len_bytes(kind, self.queue_size)
    }

    pub(super) fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut name = [0; NAME_BYTES];
        for (to, from) in name.iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        let fields: [&[u8]; 10] = [
            &MAGIC,
            &VERSION.to_ne_bytes(),
            &self.queues.to_ne_bytes(),
            &self.queue_size.to_ne_bytes(),
            &(self.region_len_bytes() as u64).to_ne_bytes(),
            &self.device.to_ne_bytes(),
            &self.features.to_ne_bytes(),
            &self.size_bytes.to_ne_bytes(),
            &self.serial,
            &name,
        ];
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        debug_assert_eq!(at, CHECKSUM_AT);
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_ne_bytes());
        bytes
    }

    /// Whether `bytes` are the header of a log for this disk.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence about the log.
    pub(super) fn check(&self, bytes: &[u8; HEADER_BYTES]) -> Result<(), String> {
        let mut fields = Fields(bytes);
        if fields.take::<8>() != MAGIC {
            return Err("is no log of requests in flight".into());
        }
        match u32::from_ne_bytes(fields.take()) {
            VERSION => {}
            version => return Err(format!("has version {version}; version {VERSION} is known here")),
        }
        let checksum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        if bytes[CHECKSUM_AT..] != checksum.to_ne_bytes() {
            return Err("is damaged: its checksum is wrong".into());
        }
        let (queues, queue_size) = (fields.u16(), fields.u16());
        let (region_len, device, features, size_bytes) =
            (fields.u64(), fields.u64(), fields.u64(), fields.u64());
        let (serial, name) = (fields.take::<SERIAL_BYTES>(), fields.take::<NAME_BYTES>());
        let other = |what: &str, found: String, wanted: String| {
            Err(format!("belongs to another disk: {what} {found}, here {wanted}"))
        };
        if without_nuls(&name) != self.name.as_bytes() {
            return other("its name is", text(&name), self.name.clone());
        }
        if device != self.device {
            return Err("belongs to an earlier device of this name".into());
        }
        if serial != self.serial {
            return other("its serial number is", text(&serial), text(&self.serial));
        }
        if (queues, queue_size) != (self.queues, self.queue_size) {
            let shape = |queues, size| format!("{queues} queues of {size} entries");
            return other("it has", shape(queues, queue_size), shape(self.queues, self.queue_size));
        }
        if features & !self.features != 0 || region_len != self.region_len_bytes() as u64 {
            return other("its features are", format!("{features:#x}"), format!("{:#x}", self.features));
        }
        // A disk may have grown while it was served.
        if size_bytes > self.size_bytes {
            return other("its bytes are", size_bytes.to_string(), self.size_bytes.to_string());
        }
        Ok(())
    }
}

/// The fields of a header, from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes; zeroes behind the end, which [`HEADER_BYTES`] rules out.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *head
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }
}

/// A field without the NULs behind its text.
fn without_nuls(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}

/// For messages: what a file says is printed with its odd characters escaped.
fn text(bytes: &[u8]) -> String {
    format!("\"{}\"", without_nuls(bytes).escape_ascii())
}
