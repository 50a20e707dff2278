//! A device's size, and how it grows under those who use the device.
//!
//! ```text
//!   control thread   Bdev::resize ─► the target grows ─► Size::grow_to
//!                                                           │
//!   reactors         Channel::submit ─► Info::check ◄─load──┘      one shared number per device
//! ```
//! It never gets smaller: whoever is above may have put data there. A target that shrank by itself leaves the device's
//! size as it is; what becomes of I/O beyond the target's end is the module's to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Info};

/// A device's size. Clones are the same size, now and later: what grows for one has grown for all.
#[derive(Clone, Debug)]
pub struct Size(Arc<AtomicU64>);

impl Size {
    /// A size of its own.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// It, in bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // It hands over no memory: the kernel, or a child's own check, judges what a reactor does with it.
        self.0.load(Ordering::Relaxed)
    }

    /// Grows it; a smaller one changes nothing. For the device's own module alone: `malloc` relies on it that its size
    /// stays.
    fn grow_to(&self, bytes: u64) {
        self.0.fetch_max(bytes, Ordering::Release);
    }
}

impl Info {
    /// Refuses a size asked for that is not in whole blocks, or smaller than now.
    pub(crate) fn check_wanted_size(&self, size_bytes: u64) -> Result<(), Error> {
        let now_bytes = self.size_bytes();
        if !size_bytes.is_multiple_of(self.block_size.into()) {
            let block_size = self.block_size;
            return Err(self.cannot_resize(format!("{size_bytes} bytes are no whole blocks of {block_size}")));
        }
        if i64::try_from(size_bytes).is_err() {
            return Err(self.cannot_resize(format!("{size_bytes} bytes are more than any file can have")));
        }
        if size_bytes < now_bytes {
            return Err(self.cannot_resize(format!(
                "{size_bytes} bytes are less than its {now_bytes}, and what would be cut off may be in use; it can only grow"
            )));
        }
        Ok(())
    }

    /// Takes over the size of a target that has grown, in whole blocks; gives the device's new size.
    pub(crate) fn grow_with(&self, target_bytes: u64) -> Result<u64, Error> {
        let block_size = u64::from(self.block_size);
        let (size_bytes, now_bytes) = (target_bytes / block_size * block_size, self.size_bytes());
        if size_bytes < now_bytes {
            return Err(self.cannot_resize(format!(
                "what it stands on has {target_bytes} bytes now, less than its {now_bytes}: it stays as it is, and \
                 reads beyond them fail; make that as long as it was"
            )));
        }
        self.size.grow_to(size_bytes);
        // Another thread may have made it larger still.
        Ok(self.size_bytes())
    }

    pub(crate) fn cannot_resize(&self, why: impl Into<String>) -> Error {
        Error::Resize { name: self.name.clone(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_for_is_whole_blocks_and_no_less() {
        let info = Info::new("d0", 1 << 20, 4096).unwrap();
        for good in [1 << 20, (1 << 20) + 4096, (1 << 63) - 4096] {
            info.check_wanted_size(good).unwrap();
        }
        for (bad, why) in
            [(0, "less than its 1048576"), ((1 << 20) - 4096, "only grow"), ((1 << 20) + 512, "4096")]
        {
            let text = info.check_wanted_size(bad).unwrap_err().to_string();
            assert!(text.contains("d0: cannot be resized") && text.contains(why), "{text}");
        }
    }

    proptest! {
        /// Clones, as channels have them, see what the device sees; it is the largest target so far, in whole blocks.
        #[test]
        fn a_size_only_grows_and_all_clones_see_it(
            shift in 9u32..13,
            first in 4096u64..1 << 40,
            targets in prop::collection::vec(0u64..1 << 41, 0..20),
        ) {
            let block_size = 1u32 << shift;
            let whole = |bytes: u64| bytes >> shift << shift;
            let info = Info::new("d0", first, block_size).unwrap();
            let channel = info.clone();
            let other = Info::new("d1", first, block_size).unwrap();
            let mut most = whole(first);
            for target in targets {
                let grown = info.grow_with(target);
                prop_assert_eq!(grown.is_ok(), whole(target) >= most);
                most = most.max(whole(target));
                prop_assert!(grown.is_err() || grown.unwrap() == most);
                prop_assert_eq!((info.size_bytes(), channel.size_bytes()), (most, most));
                prop_assert_eq!(channel.blocks(), most >> shift);
            }
            prop_assert_eq!(other.size_bytes(), whole(first));
        }
    }
}
