//! Creates the file of a disk that names its size, if it is missing. What is there already is never touched.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Creates `path`, sparse and for this user alone, unless something is there.
pub(super) fn if_missing(path: &Path, size_bytes: u64) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(io::Error::other("its directory does not exist; create that first"));
        }
        Err(e) => return Err(e),
    };
    let done = file.set_len(size_bytes).and_then(|()| make_durable(&file, path));
    if done.is_err() {
        // Half made, it would be taken for a file of another size the next time.
        let _ = std::fs::remove_file(path);
    }
    done
}

/// A flush of the disk covers the file, but not its name in the directory.
fn make_durable(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_missing_file_is_created_sparse_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        if_missing(&path, 1 << 30).unwrap();
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.len(), made.blocks(), made.permissions().mode() & 0o777), (1 << 30, 0, 0o600));
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        std::fs::write(&path, "precious").unwrap();
        if_missing(&path, 1 << 20).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_size_that_no_file_can_have_leaves_none_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        assert!(if_missing(&path, 1 << 63).is_err());
        assert!(!path.exists());
    }
}
