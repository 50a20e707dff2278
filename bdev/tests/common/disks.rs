//! Makes disks and stacks of them. Wherever one device stands on another, and on top of all, there is a joint, where a
//! test may put something in between:
//!
//! ```text
//!   caller ─(joint 2)─ raid0 ─┬─(joint 0)─ malloc
//!                             └─(joint 1)─ malloc
//! ```

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use spinblk_bdev::{
    Aio, AioOptions, Bdev, Crypto, CryptoOptions, Direct, Malloc, Null, NullReads, Raid0, XtsKey,
};
use spinblk_reactor::Hugepages;
use tempfile::NamedTempFile;

use super::{file_in, pattern};

/// Puts something over the device below joint number so-and-so, or gives it back as it is.
pub(crate) type Joint<'a> = &'a dyn Fn(usize, Arc<dyn Bdev>) -> Arc<dyn Bdev>;

/// A workshop for one stack.
pub(crate) struct Disks<'a> {
    joint: Joint<'a>,
    pub(crate) joints: usize,
    made: usize,
    files: Vec<NamedTempFile>,
}

impl<'a> Disks<'a> {
    pub(crate) fn new(joint: Joint<'a>) -> Self {
        Self { joint, joints: 0, made: 0, files: Vec::new() }
    }

    /// The files of the stack, which must live as long.
    pub(crate) fn into_files(self) -> Vec<NamedTempFile> {
        self.files
    }

    /// The length of file number so-and-so.
    pub(crate) fn file_bytes(&self, file: usize) -> u64 {
        self.files[file].as_file().metadata().unwrap().len()
    }

    /// Changes it behind its disk's back.
    pub(crate) fn set_file_bytes(&self, file: usize, len_bytes: u64) {
        self.files[file].as_file().set_len(len_bytes).unwrap();
    }

    /// Joins a device to whoever stands on it.
    pub(crate) fn join(&mut self, below: Arc<dyn Bdev>) -> Arc<dyn Bdev> {
        self.joints += 1;
        (self.joint)(self.joints - 1, below)
    }

    /// A name that no other device of this stack has.
    fn name(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    pub(crate) fn null(&mut self, size_bytes: u64) -> Arc<dyn Bdev> {
        Arc::new(Null::new(&self.name("null"), size_bytes, 512, NullReads::Zeroes).unwrap())
    }

    pub(crate) fn malloc(&mut self, size_bytes: u64, block_size: u32) -> Arc<dyn Bdev> {
        Arc::new(Malloc::new(&self.name("malloc"), size_bytes, block_size, Hugepages::Off).unwrap())
    }

    pub(crate) fn aio(
        &mut self,
        dir: &Path,
        size_bytes: u64,
        direct: Direct,
        block_size: u32,
    ) -> Arc<dyn Bdev> {
        let file = file_in(dir, size_bytes);
        let options = AioOptions { direct, block_size: Some(block_size), ..AioOptions::default() };
        let aio = Aio::open(&self.name("aio"), file.path(), options).unwrap();
        assert!(direct == Direct::Auto || aio.is_direct() == (direct == Direct::On));
        self.files.push(file);
        Arc::new(aio)
    }

    pub(crate) fn raid0(&mut self, chunk_bytes: u64, children: Vec<Arc<dyn Bdev>>) -> Arc<dyn Bdev> {
        let children = children.into_iter().map(|child| self.join(child)).collect();
        Arc::new(Raid0::new(&self.name("raid"), chunk_bytes, children).unwrap())
    }

    pub(crate) fn crypto(&mut self, sector_bytes: u32, child: Arc<dyn Bdev>) -> Arc<dyn Bdev> {
        let name = self.name("crypto");
        let key = self.key(&name);
        let options = CryptoOptions { sector_bytes, discard: true };
        let child = self.join(child);
        Arc::new(Crypto::new(&name, key, options, child).unwrap())
    }

    /// A key of its own for each device.
    fn key(&mut self, name: &str) -> XtsKey {
        let file = NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(file.path(), pattern(self.made as u64, 64)).unwrap();
        XtsKey::from_file(name, file.path()).unwrap()
    }
}
