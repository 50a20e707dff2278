//! The bdevs that stand on others: raid0, crypto, delay, error. What the text alone shows to be impossible ends here; the
//! rest is said by the bdev itself when it is opened.

use super::leaf::size_bytes;
use super::rule;
use super::setting::Section;
use super::size::{SIZE_FORMS, show_size};
use super::types::Type;
use super::{Backend, BackendKind, KeySource};
use crate::Error;
use crate::backend::{CryptoOptions, IoError, Moved};

const DEFAULT_CHUNK_BYTES: u64 = 64 << 10;
const LEAST_CHUNK_BYTES: u64 = 4 << 10;
/// What dm-crypt and cryptsetup's plain mode take when they are told nothing.
const DEFAULT_SECTOR_BYTES: u32 = 512;

/// The errors that an error bdev gives.
const ERRORS: [(&str, i32); 4] = [
    ("EIO", nix::libc::EIO),
    ("ENOSPC", nix::libc::ENOSPC),
    ("EOPNOTSUPP", nix::libc::EOPNOTSUPP),
    ("ETIMEDOUT", nix::libc::ETIMEDOUT),
];

/// The words for how much data a failed I/O moves.
pub(super) const MOVED: [(&str, Moved); 3] =
    [("nothing", Moved::Nothing), ("part", Moved::Part), ("all", Moved::All)];

/// Reads a layer's keys; `children` are those that it names.
pub(super) fn read(section: &Section, kind: Type, children: Vec<Backend>) -> Result<BackendKind, Error> {
    if kind == Type::Raid0 {
        return raid0(section, children);
    }
    let why = "it stands on another bdev; give that one's name";
    let child = children.into_iter().next().ok_or_else(|| section.missing("child", why))?;
    match kind {
        Type::Crypto => crypto(section, child),
        Type::Delay => Ok(BackendKind::Delay {
            rule: rule::rule(section, &child)?,
            latency: rule::latency(section)?,
            child: Box::new(child),
        }),
        _ => error(section, child),
    }
}

fn raid0(section: &Section, children: Vec<Backend>) -> Result<BackendKind, Error> {
    let allowed = format!("a power of two, at least 4KiB; {SIZE_FORMS}");
    let chunk_bytes = section
        .read("chunk", &allowed, |value| {
            size_bytes(value).filter(|bytes| bytes.is_power_of_two() && *bytes >= LEAST_CHUNK_BYTES)
        })?
        .unwrap_or(DEFAULT_CHUNK_BYTES);
    let small = children.iter().find_map(|child| {
        let size_bytes = child.known_size_bytes().filter(|size_bytes| *size_bytes < chunk_bytes)?;
        Some((child, size_bytes))
    });
    if let Some((child, size_bytes)) = small {
        let (size, chunk) = (show_size(size_bytes), show_size(chunk_bytes));
        let why = format!(
            "{} has {size}, less than one chunk of {chunk}; make it larger or set chunk lower",
            child.name
        );
        return Err(section.refuse_key("children", &why));
    }
    Ok(BackendKind::Raid0 { chunk_bytes, children })
}

fn crypto(section: &Section, child: Backend) -> Result<BackendKind, Error> {
    let sector_bytes = section.read("sector_size", "512, 4096", |value| {
        u32::try_from(value.integer()?).ok().filter(|n| [512, 4096].contains(n))
    })?;
    let sector_bytes = sector_bytes.unwrap_or(DEFAULT_SECTOR_BYTES);
    let block_size = child.least_block_size();
    if sector_bytes < block_size {
        let why =
            format!("{sector_bytes} is below the block size of {}, {block_size}; set it to 4096", child.name);
        return Err(section.refuse_key("sector_size", &why));
    }
    if child.known_size_bytes().is_some_and(|size_bytes| size_bytes < u64::from(sector_bytes)) {
        let why =
            format!("{} is smaller than one sector of {sector_bytes} bytes; make it larger", child.name);
        return Err(section.refuse_key("sector_size", &why));
    }
    let options = CryptoOptions { sector_bytes, discard: section.flag("discard")? };
    Ok(BackendKind::Crypto { key: key(section)?, options, child: Box::new(child) })
}

fn key(section: &Section) -> Result<KeySource, Error> {
    let file = section.read("key_file", "the path of a file", |value| {
        value.text().filter(|path| !path.is_empty() && !path.contains('\0')).map(Into::into)
    })?;
    let credential = section.read("key_credential", "the name of a credential", |value| {
        let is_file_name = |name: &&str| !["", ".", ".."].contains(name) && !name.contains(['/', '\0']);
        value.text().filter(is_file_name).map(String::from)
    })?;
    match (file, credential) {
        (Some(path), None) => Ok(KeySource::File(path)),
        (None, Some(name)) => Ok(KeySource::Credential(name)),
        (Some(_), Some(_)) => {
            Err(section.refuse_key("key_credential", "key_file names a key, too; allowed: one of them"))
        }
        (None, None) => {
            Err(section.missing("key_file", "type crypto needs the file of its key, or a key_credential"))
        }
    }
}

fn error(section: &Section, child: Backend) -> Result<BackendKind, Error> {
    let errno = section.choice("error", &ERRORS)?.unwrap_or(nix::libc::EIO);
    Ok(BackendKind::Error {
        rule: rule::rule(section, &child)?,
        error: IoError::from_errno(errno),
        moved: section.choice("moved", &MOVED)?.unwrap_or(Moved::Nothing),
        child: Box::new(child),
    })
}

/// What configuration calls an error.
pub(crate) fn error_name(error: IoError) -> &'static str {
    let found = ERRORS.iter().find(|(_, errno)| IoError::from_errno(*errno) == error);
    found.map_or("EIO", |(name, _)| name)
}
