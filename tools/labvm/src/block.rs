//! Block devices seen from their users: direct reads and writes, attributes, file systems.

use crate::command::Cmd;
use crate::fail::Fail;
use crate::state::{names_in, text_of};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount, umount};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const ALIGNMENT: usize = 4096;
/// The longest piece that is read or written at once.
pub(crate) const STEP_LEN: usize = 256 << 10;

/// A disk opened past the page cache.
pub(crate) struct DirectDisk {
    file: File,
    path: PathBuf,
}

impl DirectDisk {
    pub(crate) fn open(path: &Path) -> Result<DirectDisk, Fail> {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlag::O_DIRECT.bits());
        let file = options.open(path).map_err(Fail::file("open", path))?;
        Ok(DirectDisk { file, path: path.to_path_buf() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn size_bytes(&self) -> Result<u64, Fail> {
        (&self.file).seek(SeekFrom::End(0)).map_err(Fail::file("seek in", &self.path))
    }

    /// Writes the same byte all over a range; offset and length in multiples of 4 KiB.
    pub(crate) fn fill(&self, offset: u64, len_bytes: u64, byte: u8) -> Result<(), Fail> {
        self.write(steps(offset, len_bytes), |_, piece| piece.fill(byte))
    }

    /// Asks that a range holds nothing but this byte.
    pub(crate) fn expect(&self, offset: u64, len_bytes: u64, byte: u8) -> Result<(), Fail> {
        self.read(steps(offset, len_bytes), |at, piece| {
            let Some(inside) = piece.iter().position(|found| *found != byte) else { return Ok(()) };
            let (found, place, path) = (piece[inside], at + inside as u64, self.path.display());
            Err(Fail::Check(format!("{path} holds {found:#04x} at byte {place}, not {byte:#04x}")))
        })
    }

    /// Writes pieces, offset and length each, as they are made.
    pub(crate) fn write(
        &self,
        pieces: impl Iterator<Item = (u64, usize)>,
        mut make: impl FnMut(u64, &mut [u8]),
    ) -> Result<(), Fail> {
        let mut memory = Aligned::new(0);
        for (at, len_bytes) in pieces {
            let piece = memory.slice(len_bytes);
            make(at, piece);
            self.file.write_all_at(piece, at).map_err(Fail::file("write", &self.path))?;
        }
        Ok(())
    }

    /// Reads pieces, offset and length each, and has them checked.
    pub(crate) fn read(
        &self,
        pieces: impl Iterator<Item = (u64, usize)>,
        mut check: impl FnMut(u64, &[u8]) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        let mut memory = Aligned::new(0);
        for (at, len_bytes) in pieces {
            let piece = memory.slice(len_bytes);
            self.file.read_exact_at(piece, at).map_err(Fail::file("read", &self.path))?;
            check(at, piece)?;
        }
        Ok(())
    }

    /// Returns when everything written so far is said to be durable.
    pub(crate) fn flush(&self) -> Result<(), Fail> {
        self.file.sync_data().map_err(Fail::file("flush", &self.path))
    }

    /// A number that stands for all that is on it.
    pub(crate) fn fingerprint(&self) -> Result<u64, Fail> {
        let mut hasher = DefaultHasher::new();
        self.read(steps(0, self.size_bytes()?), |_, piece| {
            hasher.write(piece);
            Ok(())
        })?;
        Ok(hasher.finish())
    }

    /// Reads 4 KiB, and does not look at them.
    pub(crate) fn read_block(&self, offset: u64) -> Result<(), Fail> {
        let mut memory = Aligned::new(0);
        self.file.read_exact_at(memory.slice(ALIGNMENT), offset).map_err(Fail::file("read", &self.path))
    }

    /// Whether 4 KiB can be read there.
    pub(crate) fn can_read(&self, offset: u64) -> bool {
        self.read_block(offset).is_ok()
    }
}

/// The pieces of a range.
fn steps(offset: u64, len_bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset + len_bytes;
    (offset..end).step_by(STEP_LEN).map(move |at| (at, STEP_LEN.min((end - at) as usize)))
}

/// Memory that direct I/O accepts.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(byte: u8) -> Aligned {
        let bytes = vec![byte; STEP_LEN + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Aligned { bytes, start }
    }

    fn slice(&mut self, len_bytes: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len_bytes]
    }
}

/// An attribute below `/sys/block/NAME`.
pub(crate) fn attribute(device: &Path, name: &str) -> String {
    text_of(sysfs(device).join(name))
}

/// The virtio disk with this serial number, if there is one now.
pub(crate) fn with_serial(serial: &str) -> Option<PathBuf> {
    let disks = names_in("/sys/block").into_iter().filter(|name| name.starts_with("vd"));
    let mut nodes = disks.map(|name| Path::new("/dev").join(name));
    nodes.find(|node| attribute(node, "serial") == serial && node.exists())
}

/// How many hardware queues it has.
pub(crate) fn queue_count(device: &Path) -> usize {
    names_in(sysfs(device).join("mq")).len()
}

fn sysfs(device: &Path) -> PathBuf {
    Path::new("/sys/block").join(device.file_name().unwrap_or_default())
}

/// An ext4 on a device, mounted; unmounted when dropped, if it still is then.
pub(crate) struct Mount {
    place: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Makes a new file system.
    pub(crate) fn format(device: &Path) -> Result<(), Fail> {
        mke2fs(device).run().map(drop)
    }

    /// Makes a new file system that leaves the rest of the device alone.
    pub(crate) fn format_first(device: &Path, size_mib: u64) -> Result<(), Fail> {
        mke2fs(device).arg(format!("{size_mib}M")).run().map(drop)
    }

    /// Mounts it at `/mnt/NAME`.
    pub(crate) fn open(device: &Path, name: &str) -> Result<Mount, Fail> {
        let place = Path::new("/mnt").join(name);
        std::fs::create_dir_all(&place).map_err(Fail::file("create", &place))?;
        mount(Some(device), &place, Some("ext4"), MsFlags::empty(), None::<&str>)
            .map_err(Fail::system(format!("mount {} on {}", device.display(), place.display())))?;
        Ok(Mount { place, mounted: true })
    }

    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Unmounts it.
    pub(crate) fn close(mut self) -> Result<(), Fail> {
        self.mounted = false;
        umount(&self.place).map_err(Fail::system(format!("unmount {}", self.place.display())))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount(&self.place);
        }
    }
}

fn mke2fs(device: &Path) -> Cmd {
    Cmd::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).path(device).limit_s(60)
}

/// Whether the file system on a device is whole; changes nothing.
pub(crate) fn check_filesystem(device: &Path) -> Result<(), Fail> {
    Cmd::new("e2fsck").args(["-f", "-n"]).path(device).limit_s(120).run().map(drop)
}

/// The MD5 sum and name of every file under a folder.
pub(crate) fn checksums(folder: &Path) -> Result<String, Fail> {
    let command = "find . -type f -exec md5sum {} + | sort -k2";
    Cmd::new("sh").args(["-c", &format!("cd {} && {command}", folder.display())]).limit_s(120).run()
}

/// A file of zeroes of the given size, with its blocks allocated.
pub(crate) fn allocate_file(path: &Path, size_mib: u64) -> Result<(), Fail> {
    Cmd::new("fallocate").args(["-l", &format!("{size_mib}M")]).path(path).run().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_the_range() {
        let pieces: Vec<_> = steps(4096, (STEP_LEN + 4096) as u64).collect();
        assert_eq!(pieces, [(4096, STEP_LEN), (4096 + STEP_LEN as u64, 4096)]);
        assert_eq!(steps(0, 0).count(), 0);
    }

    #[test]
    fn memory_is_aligned() {
        let mut memory = Aligned::new(7);
        let slice = memory.slice(8192);
        assert_eq!(slice.as_ptr() as usize % ALIGNMENT, 0);
        assert!(slice.iter().all(|byte| *byte == 7));
    }
}
