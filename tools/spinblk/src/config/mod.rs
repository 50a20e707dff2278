//! What to serve, checked: one [`Config`], whether it was written as a TOML file or as flags.
//!
//! ```text
//!   TOML text ──file──┐
//!                     ├─► sections of settings ──check──► Config
//!   flags ────flags───┘   (key, value, line)
//! ```
//!
//! Everything that can be known without touching the machine is checked here. An error is one line that names the
//! place, the key, the value and what is allowed.

mod check;
mod file;
mod flags;
mod setting;
mod size;
mod target;

use std::io::Read;
use std::path::{Path, PathBuf};

use spinblk_reactor::Hugepages;

use crate::Error;
use crate::backend::{Direct, NullReads};
use crate::transport::BusDriver;
pub(crate) use check::show_cores;
pub use flags::Flags;
pub(crate) use size::{SIZE_FORMS, parse_size, show_size};
pub(crate) use target::{core_list, target};

/// A file longer than this is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Cores that get one polling reactor each; at least one, none twice.
    pub cores: Vec<usize>,
    /// Where memory for disks and bounce regions comes from.
    pub hugepages: Hugepages,
    /// The disks; at least one, no name twice.
    pub disks: Vec<Disk>,
}

/// One disk to export.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// Its name on the vDPA bus and in messages.
    pub name: String,
    /// What holds its data.
    pub backend: Backend,
    /// Number of virtqueues.
    pub queues: u16,
    /// Entries of each virtqueue; a power of two.
    pub queue_size: u16,
    /// Cores whose reactors serve its queues, dealt in turn; a subset of [`Config::cores`].
    pub cores: Vec<usize>,
    /// What the guest sees in `/sys/block/*/serial`.
    pub serial: String,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// How guests get at it.
    pub via: Via,
}

/// How guests get at a disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Via {
    /// The kernel's vDPA bus.
    Vduse {
        /// The bus driver that takes it.
        driver: BusDriver,
        /// Size of its bounce region; `None` for the kernel's own choice.
        bounce_bytes: Option<u64>,
        /// Whether to offer packed rings.
        packed: bool,
    },
    /// A unix socket that a VM connects to.
    VhostUser {
        /// Where it listens.
        socket: PathBuf,
    },
}

/// What holds a disk's data.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// Nothing at all.
    Null {
        /// The size it pretends to have.
        size_bytes: u64,
        /// Logical block size.
        block_size: u32,
        /// What a read leaves in the buffer.
        reads: NullReads,
    },
    /// RAM.
    Malloc {
        /// Its size.
        size_bytes: u64,
        /// Logical block size.
        block_size: u32,
    },
    /// A file or block device.
    Aio {
        /// The file.
        path: PathBuf,
        /// Whether it is opened with O_DIRECT.
        direct: Direct,
        /// Logical block size; `None` for the target's own.
        block_size: Option<u32>,
    },
}

impl Config {
    /// Checks a TOML text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// [`Error::ConfigText`] for what is no TOML, [`Error::Setting`] for a setting that is wrong or missing.
    pub fn from_toml(text: &str, name: &str) -> Result<Self, Error> {
        check::config(&file::sections(text, name)?)
    }

    /// Checks command-line flags.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn from_flags(flags: &Flags) -> Result<Self, Error> {
        check::config(&flags::sections(flags)?)
    }

    /// Reads and checks a TOML file.
    ///
    /// # Errors
    /// As [`Config::from_toml`], and [`Error::ConfigFile`] when it cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::ConfigFile { path: path.into(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
        Self::from_toml(&text, &path.display().to_string())
    }
}

#[cfg(test)]
mod tests;
