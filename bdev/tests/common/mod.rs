//! What the tests of this crate share: a ring with one channel and memory to do I/O with, and disks to try.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

mod bench;
mod disks;
mod loop_device;
mod request;

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

pub(crate) use bench::{ARENA_BYTES, Bench};
pub(crate) use disks::{Disks, Joint};
pub(crate) use loop_device::Loop;
pub(crate) use request::Request;

/// Where files of the tests go: a file system on a disk, and one in memory.
pub(crate) fn disk_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

pub(crate) fn memory_dir() -> PathBuf {
    PathBuf::from("/dev/shm")
}

/// A file of `size_bytes` of zeroes, removed on drop.
pub(crate) fn file_in(dir: &Path, size_bytes: u64) -> NamedTempFile {
    let file = tempfile::Builder::new().prefix("spinblk-bdev-").tempfile_in(dir).unwrap();
    file.as_file().set_len(size_bytes).unwrap();
    file
}

/// One step of a small generator (xorshift), which must not start at zero.
pub(crate) fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Bytes that tell where they were meant to go: made in words, because unoptimised tests make a lot of them.
pub(crate) fn pattern(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        bytes.extend_from_slice(&xorshift(&mut state).to_le_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}
