//! What to serve, checked: one [`Config`], whether it was written as a TOML file or as flags.
//!
//! ```text
//!   TOML text ──file──┐                          ┌─ stack: [[bdev]]s that name each other, as trees
//!                     ├─► sections of settings ──check──► Config
//!   flags ────flags───┘   (key, value, line)     └─ types, leaf, layer, rule: what one bdev's keys mean
//!                               ▲                                          │
//!                               └── change: one more, one less ◄──write────┘──save──► TOML text
//! ```
//!
//! Everything that can be known without touching the machine is checked here. An error is one line that names the
//! place, the key, the value and what is allowed.

mod backend;
mod change;
mod check;
mod control;
mod file;
mod flags;
mod layer;
mod leaf;
mod rule;
mod save;
mod setting;
mod size;
mod stack;
mod target;
mod types;
mod write;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spinblk_reactor::Hugepages;

use crate::Error;
use crate::control::Endpoints;
use crate::memory_lock::LockMemory;
use crate::transport::BusDriver;
pub use backend::{Backend, BackendKind, KeySource, Stack};
pub(crate) use change::nothing_of;
pub(crate) use check::show_cores;
pub use flags::Flags;
pub(crate) use layer::error_name;
pub(crate) use rule::{INTERVAL_FORMS, op_names, parse_interval, show_latency};
pub(crate) use size::{SIZE_FORMS, parse_size, show_size};
pub(crate) use target::{INLINE_KINDS, config_target, core_list, target};

/// A file longer than this is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Cores that get one polling reactor each; at least one, none twice.
    pub cores: Vec<usize>,
    /// Where memory for disks and bounce regions comes from.
    pub hugepages: Hugepages,
    /// Whether all memory is kept out of swap.
    pub lock_memory: LockMemory,
    /// Where the running process is found; nowhere unless told.
    pub control: Endpoints,
    /// Where intervals of latencies are written to; nowhere unless told.
    pub hist_log: Option<HistLogConfig>,
    /// The disks; at least one, no name twice.
    pub disks: Vec<Disk>,
    /// Stacks of the file that no disk stands on.
    pub unused: Vec<Backend>,
}

/// A log of latencies that grows while disks are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistLogConfig {
    /// The file, which is written anew.
    pub path: PathBuf,
    /// The length of an interval.
    pub interval: Duration,
}

/// One disk to export.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// Its name on the vDPA bus and in messages.
    pub name: String,
    /// What holds its data.
    pub backend: Backend,
    /// Whether that is a `[[bdev]]`, which is there without the disk, too.
    pub over_bdev: bool,
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
        /// Whether another process can go on with it after this one was killed.
        resume: bool,
        /// Where the log for that is kept.
        state_dir: PathBuf,
    },
    /// A unix socket that a VM connects to.
    VhostUser {
        /// Where it listens.
        socket: PathBuf,
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
        Self::from_toml(&read(path)?, &path.display().to_string())
    }

    /// All stacks, those of disks first.
    #[must_use]
    pub fn into_stacks(self) -> Vec<Stack> {
        let of_disk =
            |disk: Disk| Stack { disk: Some(disk.name), read_only: disk.read_only, top: disk.backend };
        let unused = |top| Stack { disk: None, read_only: false, top };
        self.disks.into_iter().map(of_disk).chain(self.unused.into_iter().map(unused)).collect()
    }
}

/// Checks a TOML text and gives its stacks. It may have `[[bdev]]` sections alone; otherwise it is checked as a whole
/// [`Config`].
///
/// # Errors
/// As [`Config::from_toml`].
pub fn stacks_from_toml(text: &str, name: &str) -> Result<Vec<Stack>, Error> {
    check::stacks(&file::sections(text, name)?)
}

/// The same from a file.
///
/// # Errors
/// As [`Config::from_file`].
pub fn stacks_from_file(path: &Path) -> Result<Vec<Stack>, Error> {
    stacks_from_toml(&read(path)?, &path.display().to_string())
}

/// A file's text, if it is of a size that a configuration may have.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::ConfigFile { path: path.into(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let len_bytes = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if len_bytes as u64 > MAX_FILE_BYTES {
        return Err(failed(std::io::Error::other("it is longer than 1 MiB, which no configuration is")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
