//! The bdevs that hold data, or pretend to: null, malloc, aio.

use super::BackendKind;
use super::setting::{Section, Value};
use super::size::{SIZE_FORMS, parse_size, show_size};
use super::types::Type;
use crate::Error;
use crate::backend::{Direct, NullReads, Poll};

const DEFAULT_BLOCK_SIZE: u32 = 512;
const LARGEST_BLOCK_SIZE: u32 = 4096;

/// The words for what reads of a null bdev give.
pub(super) const READS: [(&str, NullReads); 2] =
    [("untouched", NullReads::Untouched), ("zeroes", NullReads::Zeroes)];
/// The words for O_DIRECT.
pub(super) const DIRECT: [(&str, Direct); 3] =
    [("auto", Direct::Auto), ("on", Direct::On), ("off", Direct::Off)];
/// The words for poll queues.
pub(super) const POLL: [(&str, Poll); 3] = [("auto", Poll::Auto), ("on", Poll::On), ("off", Poll::Off)];

/// Reads a leaf's keys.
pub(super) fn read(section: &Section, kind: Type) -> Result<BackendKind, Error> {
    let block_size = section.read("block_size", "512, 1024, 2048, 4096", |value| {
        u32::try_from(value.integer()?).ok().filter(|n| [512, 1024, 2048, 4096].contains(n))
    })?;
    if kind == Type::Aio {
        return aio(section, block_size);
    }
    let block_size = block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let size_bytes = section
        .read("size", SIZE_FORMS, size_bytes)?
        .ok_or_else(|| section.missing("size", "for example \"256MiB\""))?;
    refuse_odd_size(section, "size", size_bytes, block_size)?;
    if kind == Type::Malloc {
        return Ok(BackendKind::Malloc { size_bytes, block_size });
    }
    let reads = section.choice("reads", &READS)?.unwrap_or(NullReads::Untouched);
    Ok(BackendKind::Null { size_bytes, block_size, reads })
}

fn aio(section: &Section, block_size: Option<u32>) -> Result<BackendKind, Error> {
    let path = section.read("path", "the path of a file or block device", |value| {
        value.text().filter(|path| !path.is_empty() && !path.contains('\0')).map(Into::into)
    })?;
    let direct = section.choice("direct", &DIRECT)?.unwrap_or_default();
    let poll = section.choice("poll", &POLL)?.unwrap_or_default();
    let why = "type aio needs the path of a file or block device";
    let path = path.ok_or_else(|| section.missing("path", why))?;
    let read_only = section.flag("read_only")?;
    let create_bytes = section.read("create_size", SIZE_FORMS, size_bytes)?;
    if let Some(bytes) = create_bytes {
        // A new file without a block size of its own must fit whichever its file system asks for.
        refuse_odd_size(section, "create_size", bytes, block_size.unwrap_or(LARGEST_BLOCK_SIZE))?;
        if read_only {
            let why = "a file that is only read is not created; leave one of create_size and read_only out";
            return Err(section.refuse_key("create_size", why));
        }
    }
    Ok(BackendKind::Aio { path, direct, poll, block_size, read_only, create_bytes })
}

fn refuse_odd_size(section: &Section, key: &str, size_bytes: u64, block_size: u32) -> Result<(), Error> {
    let block = u64::from(block_size);
    if size_bytes < block {
        let why = format!("less than one block of {block} bytes; make it larger");
        return Err(section.refuse_key(key, &why));
    }
    if !size_bytes.is_multiple_of(block) || i64::try_from(size_bytes).is_err() {
        let why =
            format!("allowed: a multiple of the block size of {block} bytes, below {}", show_size(1 << 63));
        return Err(section.refuse_key(key, &why));
    }
    Ok(())
}

/// A size: a number of bytes, or a text with a unit.
pub(super) fn size_bytes(value: &Value) -> Option<u64> {
    match value.text() {
        Some(text) => parse_size(text),
        None => u64::try_from(value.integer()?).ok(),
    }
}
