//! A disk encrypted with AES-256-XTS over another disk.
//!
//! ```text
//!   key       the key and the file or credential that it comes from
//!     └─ locked    memory for it that never reaches swap or a core dump
//!   channel   one core's side: pool buffers, pieces, the child's answers
//!     └─ sectors   an I/O's memory, cut into sectors
//!          └─ xts      the cipher
//! ```
//!
//! What lies on the child is what Linux dm-crypt lays there for `aes-xts-plain64` with a 512-bit key, without a
//! header: a disk can be moved from one to the other. Each sector is encrypted by itself, with a tweak that is the
//! number of its first 512-byte sector; with sectors of 4096 bytes that number grows by 8 (dm-crypt without
//! `iv_large_sectors`).
//!
//! Encryption keeps what is on the child secret. It does not notice when somebody changes it: a changed block of 16
//! bytes reads as noise.
//!
//! # Discards and zeroes
//! A discard tells whoever sees the child which blocks are not in use, and so roughly how much is, and what file
//! system it may be. It is passed on only where [`CryptoOptions::discard`] allows it, as dm-crypt does with
//! `allow_discards`. Zeroes cannot be passed on at all: what is zero below reads as noise above. So there is no
//! write-zeroes; whoever wants zeroes writes them.

mod channel;
mod key;
mod locked;
mod sectors;
mod xts;

use std::sync::Arc;

use channel::CryptoChannel;
use spinblk_reactor::Ring;

use crate::{Bdev, Capabilities, Channel, Error, Info};

pub use key::XtsKey;

/// Where encryption's sectors begin and end, and what happens to discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CryptoOptions {
    /// Bytes encrypted as one: 512 or 4096. It is a part of the format on the child, and the disk's block size.
    pub sector_bytes: u32,
    /// Whether discards are passed on to the child.
    pub discard: bool,
}

/// An encrypted disk.
pub struct Crypto {
    info: Info,
    key: Arc<XtsKey>,
    children: [Arc<dyn Bdev>; 1],
}

impl Crypto {
    /// The decrypted view of `child` under `key`. Any key does: a wrong one gives noise.
    ///
    /// # Errors
    /// [`Error::Option`] for a sector size that there is not, [`Error::Child`] when the child's blocks are larger
    /// than a sector, [`Error::TooSmall`].
    pub fn new(name: &str, key: XtsKey, options: CryptoOptions, child: Arc<dyn Bdev>) -> Result<Self, Error> {
        let info = info(name, options, child.info())?;
        Ok(Self { info, key: Arc::new(key), children: [child] })
    }
}

/// What an encrypted disk over `child` is.
fn info(name: &str, options: CryptoOptions, child: &Info) -> Result<Info, Error> {
    let sector_bytes = options.sector_bytes;
    if !matches!(sector_bytes, 512 | 4096) {
        return Err(Error::Option {
            name: name.into(),
            option: "sector_size",
            value: sector_bytes.to_string(),
            why: "allowed are 512 and 4096",
        });
    }
    if child.block_size > sector_bytes {
        let block_size = child.block_size;
        return Err(Error::Child {
            name: name.into(),
            child: child.name.clone(),
            why: format!(
                "its blocks of {block_size} bytes are larger than a sector of {sector_bytes}; set sector_size to 4096"
            ),
        });
    }
    // The child's blocks are no larger, so a sector is the block size.
    let mut info = Info::new(name, child.size_bytes(), sector_bytes)?;
    info.physical_block_size = child.physical_block_size.max(sector_bytes);
    info.read_only = child.read_only;
    let Capabilities { flush, discard, write_zeroes: _ } = child.caps;
    info.caps = Capabilities { flush, discard: discard && options.discard, write_zeroes: false };
    Ok(info)
}

impl Bdev for Crypto {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "crypto"
    }

    /// The child grows first, so that nothing is taken here that has no place there.
    fn resize(&self, size_bytes: Option<u64>) -> Result<u64, Error> {
        let child = &self.children[0];
        size_bytes.map_or(Ok(()), |size_bytes| self.info.check_wanted_size(size_bytes))?;
        self.info.grow_with(child.resize(size_bytes)?)
    }

    fn children(&self) -> &[Arc<dyn Bdev>] {
        &self.children
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(CryptoChannel::open(&self.info, &self.key, &*self.children[0], ring, depth)?))
    }
}
