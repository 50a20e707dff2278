//! Stripes over children: chunk after chunk goes to child after child, laid out as Linux md does (see `layout`).
//!
//! ```text
//!   layout    where each byte lies
//!   channel   one core's side: passes I/O in one chunk on as it is, splits the rest, one I/O to each child
//! ```
//! There is no redundancy: what a failed child held is gone, and I/O that touches it fails; the rest goes on.

mod channel;
mod layout;

use std::fmt;
use std::sync::Arc;

use spinblk_reactor::Ring;

use crate::{Bdev, Capabilities, Channel, Error, Info};
use channel::Raid0Channel;
use layout::Layout;

/// A striped device.
pub struct Raid0 {
    info: Info,
    layout: Arc<Layout>,
    chunk_bytes: u64,
    children: Vec<Arc<dyn Bdev>>,
}

impl Raid0 {
    /// Stripes of `chunk_bytes`, a power of two, over one or more children. Their sizes may differ; each is used up to
    /// its last whole chunk.
    ///
    /// # Errors
    /// [`Error::Option`] without children or with a chunk that is no power of two or less than a block;
    /// [`Error::Child`] for one that is smaller than a chunk.
    pub fn new(name: &str, chunk_bytes: u64, children: Vec<Arc<dyn Bdev>>) -> Result<Self, Error> {
        let refuse = |option, value: u64, why| Error::Option {
            name: name.into(),
            option,
            value: value.to_string(),
            why,
        };
        let infos = || children.iter().map(|child| child.info());
        let Some(block_size) = infos().map(|info| info.block_size).max() else {
            return Err(refuse("children", 0, "give one child at least"));
        };
        if !chunk_bytes.is_power_of_two() || chunk_bytes < u64::from(block_size) {
            return Err(refuse(
                "chunk",
                chunk_bytes,
                "allowed: powers of two, not below any child's block size",
            ));
        }
        if let Some(small) = infos().find(|info| info.size_bytes() < chunk_bytes) {
            let why = format!("its {} bytes are less than one chunk of {chunk_bytes}", small.size_bytes());
            return Err(Error::Child { name: name.into(), child: small.name.clone(), why });
        }
        let sizes: Vec<u64> = infos().map(Info::size_bytes).collect();
        if sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size)).is_none() {
            return Err(refuse("children", sizes.len() as u64, "together they have more than 2^64 bytes"));
        }
        let layout = Layout::new(chunk_bytes, &sizes);
        let mut info = Info::new(name, layout.size_bytes(), block_size)?;
        info.physical_block_size = infos().map(|child| child.physical_block_size).fold(block_size, u32::max);
        info.read_only = infos().any(|child| child.read_only);
        info.caps = Capabilities {
            // One child with a volatile cache is enough to need flushes; the others take them, too.
            flush: infos().any(|child| child.caps.flush),
            discard: infos().all(|child| child.caps.discard),
            write_zeroes: infos().all(|child| child.caps.write_zeroes),
        };
        Ok(Self { info, layout: Arc::new(layout), chunk_bytes, children })
    }

    /// Bytes in a chunk.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }
}

impl fmt::Debug for Raid0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raid0")
            .field("info", &self.info)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl Bdev for Raid0 {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        "raid0"
    }

    /// Where a block lies depends on the sizes of all children.
    fn resize(&self, _: Option<u64>) -> Result<u64, Error> {
        Err(self
            .info
            .cannot_resize("larger children may move the blocks of a striped disk; copy it to a larger one"))
    }

    fn children(&self) -> &[Arc<dyn Bdev>] {
        &self.children
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        let mut channels: Vec<Box<dyn Channel>> = Vec::with_capacity(self.children.len());
        for child in &self.children {
            match child.open(ring, depth) {
                Ok(channel) => channels.push(channel),
                Err(error) => {
                    channels.iter_mut().for_each(|channel| channel.close(ring));
                    return Err(error);
                }
            }
        }
        Ok(Box::new(Raid0Channel::new(&self.info, Arc::clone(&self.layout), channels, depth)))
    }
}
