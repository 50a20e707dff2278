//! A configuration file for `spinblk serve`: block devices that stand on each other, and disks on top of them.

use crate::command::Cmd;
use crate::fail::Fail;
use crate::lab::Lab;
use crate::spinblk::Daemon;
use crate::vdpa;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const CONFIG: &str = "/tmp/stack.toml";
const KEY: &str = "/tmp/stack.key";

/// The file's text so far.
pub(crate) struct Stack {
    text: String,
    control: Option<&'static str>,
}

impl Stack {
    /// One reactor, on the last core of a machine with two.
    pub(crate) fn new() -> Stack {
        Stack { text: "[reactor]\ncores = [1]\n".to_owned(), control: None }
    }

    /// A file or a block device; `direct` as the key of this name.
    pub(crate) fn aio(self, name: &str, path: &Path, direct: &str) -> Stack {
        self.bdev(name, "aio", &format!("path = \"{}\"\ndirect = \"{direct}\"", path.display()))
    }

    /// Stripes over others.
    pub(crate) fn raid0(self, name: &str, children: &[&str], chunk_bytes: u64) -> Stack {
        self.bdev(name, "raid0", &format!("children = {children:?}\nchunk = \"{}KiB\"", chunk_bytes >> 10))
    }

    /// Encryption over another one, with the key of [`key_file`].
    pub(crate) fn crypto(self, name: &str, child: &str, sector_bytes: u32) -> Stack {
        let child = format!("child = \"{child}\"\nkey_file = \"{KEY}\"\nsector_size = {sector_bytes}");
        self.bdev(name, "crypto", &child)
    }

    /// A disk over VDUSE, with two queues.
    pub(crate) fn disk(mut self, name: &str, bdev: &str) -> Stack {
        // Into a String, which takes all.
        let _ = writeln!(self.text, "\n[[disk]]\nname = \"{name}\"\nbdev = \"{bdev}\"\nqueues = 2");
        self
    }

    /// With a control socket.
    pub(crate) fn control(self, socket: &'static str) -> Stack {
        Stack { control: Some(socket), ..self }
    }

    /// A block device of any type, with its keys as the file has them.
    pub(crate) fn bdev(mut self, name: &str, kind: &str, rest: &str) -> Stack {
        let _ = writeln!(self.text, "\n[[bdev]]\nname = \"{name}\"\ntype = \"{kind}\"\n{rest}");
        self
    }

    /// Starts spinblk with it.
    pub(crate) fn start(&self, lab: &Lab) -> Result<Daemon, Fail> {
        std::fs::write(CONFIG, &self.text).map_err(Fail::file("write", Path::new(CONFIG)))?;
        let control = self.control.into_iter().flat_map(|socket| ["--control", socket]);
        Daemon::start_with(lab, Cmd::new("spinblk").args(["serve", "--config", CONFIG]).args(control))
    }

    /// Starts spinblk with it; gives the block device of its disk of that name as well.
    pub(crate) fn start_one(&self, lab: &Lab, name: &str) -> Result<(Daemon, PathBuf), Fail> {
        let daemon = self.start(lab)?;
        let device = vdpa::block_device(name)?;
        Ok((daemon, device))
    }
}

/// The key of all encryption here; every byte of it is another one.
pub(crate) fn key_file() -> Result<&'static Path, Fail> {
    let path = Path::new(KEY);
    let mut options = std::fs::File::options();
    let file = options.create(true).write(true).truncate(true).mode(0o600).open(path);
    let bytes: Vec<u8> = (0..64).collect();
    file.and_then(|mut file| file.write_all(&bytes)).map_err(Fail::file("write", path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_sections() {
        let stack = Stack::new()
            .aio("a", Path::new("/dev/loop0"), "auto")
            .raid0("s", &["a", "b"], 64 << 10)
            .crypto("c", "s", 4096)
            .disk("d0", "c");
        let expected = "[reactor]\ncores = [1]\n\n\
            [[bdev]]\nname = \"a\"\ntype = \"aio\"\npath = \"/dev/loop0\"\ndirect = \"auto\"\n\n\
            [[bdev]]\nname = \"s\"\ntype = \"raid0\"\nchildren = [\"a\", \"b\"]\nchunk = \"64KiB\"\n\n\
            [[bdev]]\nname = \"c\"\ntype = \"crypto\"\nchild = \"s\"\nkey_file = \"/tmp/stack.key\"\nsector_size = 4096\n\n\
            [[disk]]\nname = \"d0\"\nbdev = \"c\"\nqueues = 2\n";
        assert_eq!(stack.text, expected);
    }
}
