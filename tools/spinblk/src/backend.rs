//! From the checked form of a stack to its block devices.

use std::path::Path;
use std::sync::Arc;

use spinblk_bdev::{Aio, AioOptions, Bdev, Crypto, Delay, Faulty, Malloc, Null, Raid0, XtsKey};
pub use spinblk_bdev::{CryptoOptions, Direct, IoError, Moved, NullReads, Ops, Poll, Rule};
use spinblk_reactor::Hugepages;

use crate::Error;
use crate::config::{Backend, BackendKind, KeySource};

/// What is done about what a stack would make anew: memory, and files that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// It is made.
    Really(Hugepages),
    /// It is described by a null disk of its size, which must see no I/O.
    Described,
}

/// An open bdev beside its configuration, and all that it stands on.
pub struct Opened<'a> {
    /// As it was configured.
    pub backend: &'a Backend,
    /// As it turned out.
    pub bdev: Arc<dyn Bdev>,
    /// How its file is opened, if it has one.
    pub file: Option<FileState>,
    /// What it stands on, in order.
    pub children: Vec<Opened<'a>>,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// With O_DIRECT.
    Direct,
    /// Through the page cache.
    Cached,
    /// Not at all, for it is missing and only described.
    Missing,
}

/// Makes the block devices of a stack, from the leaves up; files are opened and keys are read now. The recursion is as
/// deep as the stack, which the configuration bounds.
///
/// # Errors
/// [`Error::Bdev`] names the place, the bdev and what is wrong.
pub fn open(backend: &Backend, read_only: bool, making: Making) -> Result<Opened<'_>, Error> {
    let below = backend.children().iter().map(|child| open(child, read_only, making));
    let children: Vec<Opened<'_>> = below.collect::<Result<_, _>>()?;
    let (bdev, file) = make(backend, &children, read_only, making)
        .map_err(|source| Error::Bdev { place: backend.place.clone(), source: Box::new(source) })?;
    Ok(Opened { backend, bdev, file, children })
}

type Made = Result<(Arc<dyn Bdev>, Option<FileState>), spinblk_bdev::Error>;

fn make(backend: &Backend, children: &[Opened<'_>], read_only: bool, making: Making) -> Made {
    let name = backend.name.as_str();
    // Each kind that asks for it has one: it owns its `Backend`.
    let child = || Arc::clone(&children[0].bdev);
    let bdev: Arc<dyn Bdev> = match &backend.kind {
        BackendKind::Null { size_bytes, block_size, reads } => {
            Arc::new(Null::new(name, *size_bytes, *block_size, *reads)?.with_read_only(read_only))
        }
        BackendKind::Malloc { size_bytes, block_size } => match making {
            Making::Really(hugepages) => {
                Arc::new(Malloc::new(name, *size_bytes, *block_size, hugepages)?.with_read_only(read_only))
            }
            Making::Described => described(name, *size_bytes, *block_size, read_only)?,
        },
        BackendKind::Aio { path, direct, poll, block_size, read_only: always, create_bytes } => {
            let read_only = read_only || *always;
            if let (Making::Described, Some(size_bytes), false) = (making, create_bytes, read_only)
                && is_missing(path)
            {
                let bdev = described(name, *size_bytes, block_size.unwrap_or(512), read_only)?;
                return Ok((bdev, Some(FileState::Missing)));
            }
            let (direct, poll, block_size, create_bytes) = (*direct, *poll, *block_size, *create_bytes);
            let options = AioOptions { read_only, direct, block_size, create_bytes, poll };
            let aio = Aio::open(name, path, options)?;
            let file = if aio.is_direct() { FileState::Direct } else { FileState::Cached };
            return Ok((Arc::new(aio), Some(file)));
        }
        BackendKind::Raid0 { chunk_bytes, .. } => {
            let children = children.iter().map(|child| Arc::clone(&child.bdev)).collect();
            Arc::new(Raid0::new(name, *chunk_bytes, children)?)
        }
        BackendKind::Crypto { key, options, .. } => {
            let key = match key {
                KeySource::File(path) => XtsKey::from_file(name, path)?,
                KeySource::Credential(credential) => XtsKey::from_credential(name, credential)?,
            };
            Arc::new(Crypto::new(name, key, *options, child())?)
        }
        BackendKind::Delay { rule, latency, .. } => {
            Arc::new(Delay::new(name, rule.clone(), *latency, child())?)
        }
        BackendKind::Error { rule, error, moved, .. } => {
            Arc::new(Faulty::new(name, rule.clone(), *error, *moved, child())?)
        }
    };
    Ok((bdev, None))
}

/// What a disk of this size would look like.
fn described(
    name: &str,
    size_bytes: u64,
    block_size: u32,
    read_only: bool,
) -> Result<Arc<dyn Bdev>, spinblk_bdev::Error> {
    let null = Null::new(name, size_bytes, block_size, NullReads::Untouched)?;
    Ok(Arc::new(null.with_read_only(read_only)))
}

/// Whether it could be created: what it is to lie in is there, and it is not.
fn is_missing(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.is_dir() && matches!(path.try_exists(), Ok(false))
}
