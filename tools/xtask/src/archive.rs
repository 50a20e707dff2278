//! A file tree for an initramfs, written as a newc cpio archive.

use crate::error::{Error, Result};
use cpio::newc::{Builder, ModeFileType, trailer};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The tree; a folder above an entry comes by itself.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// By path, without the leading slash; sorted, so that a folder stands before what is in it.
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Folder,
    Link(String),
    Copy { from: PathBuf, mode: u32 },
    Text { content: Vec<u8>, mode: u32 },
}

impl Archive {
    pub(crate) fn folder(&mut self, path: &str) {
        self.add(path, Entry::Folder);
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    pub(crate) fn text(&mut self, path: &str, content: &str) {
        self.add(path, Entry::Text { content: content.as_bytes().to_vec(), mode: 0o644 });
    }

    /// The content of a file of the host, executable.
    pub(crate) fn program(&mut self, path: &str, from: &Path) {
        self.add(path, Entry::Copy { from: from.to_path_buf(), mode: 0o755 });
    }

    /// The content of a file of the host, with its rights.
    pub(crate) fn file(&mut self, path: &str, from: &Path) {
        // One that is not there is told when it is read.
        let mode = fs::metadata(from).map_or(0o644, |metadata| metadata.mode() & 0o777);
        self.add(path, Entry::Copy { from: from.to_path_buf(), mode });
    }

    /// Everything in a folder of the host.
    pub(crate) fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        let entries = fs::read_dir(from).map_err(Error::file("read", from))?;
        for entry in entries.flatten() {
            let inner = format!("{path}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                self.tree(&inner, &entry.path())?;
            } else {
                self.add(&inner, Entry::Copy { from: entry.path(), mode: 0o644 });
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the archive, owned by root.
    pub(crate) fn write(&self, mut to: impl Write) -> Result<()> {
        for (inode, (path, entry)) in (1u32..).zip(&self.entries) {
            let builder = Builder::new(path).ino(inode).uid(0).gid(0);
            write_entry(builder, entry, &mut to).map_err(Error::file("pack", Path::new(path)))?;
        }
        trailer(to).map(drop).map_err(Error::file("end", Path::new("the archive")))
    }
}

fn write_entry(builder: Builder, entry: &Entry, to: &mut impl Write) -> io::Result<()> {
    let (kind, mode, content) = match entry {
        Entry::Folder => (ModeFileType::Directory, 0o755, Vec::new()),
        Entry::Link(target) => (ModeFileType::Symlink, 0o777, target.as_bytes().to_vec()),
        Entry::Copy { from, mode } => (ModeFileType::Regular, *mode, fs::read(from)?),
        Entry::Text { content, mode } => (ModeFileType::Regular, *mode, content.clone()),
    };
    let len_bytes = u32::try_from(content.len()).map_err(|_| io::Error::other("4 GiB or more"))?;
    let mut writer = builder.mode(mode).set_mode_file_type(kind).write(to, len_bytes);
    writer.write_all(&content)?;
    writer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_written_can_be_read_back() {
        let mut archive = Archive::default();
        archive.text("/etc/passwd", "root:x:0:0\n");
        archive.link("/bin/sh", "busybox");
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            seen.push((reader.entry().name().to_owned(), reader.entry().mode(), content));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("bin", 0o040_755, ""),
            ("bin/sh", 0o120_777, "busybox"),
            ("etc", 0o040_755, ""),
            ("etc/passwd", 0o100_644, "root:x:0:0\n"),
        ];
        assert_eq!(seen.len(), expected.len());
        for (left, right) in seen.iter().zip(expected) {
            assert_eq!((left.0.as_str(), left.1, left.2.as_str()), right);
        }
    }
}
