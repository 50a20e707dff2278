//! Methods that tell what is there.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Method, NoParams};

/// Tells what answers.
#[derive(Debug)]
pub enum Version {}

impl Method for Version {
    const NAME: &'static str = "version";
    const ABOUT: &'static str =
        "Tells the program, its version and that of this interface, and how long it runs.";
    type Params = NoParams;
    type Result = VersionInfo;
}

/// What answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionInfo {
    /// `spinblk`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// The version of this interface.
    pub api_version: u32,
    /// Its process.
    pub pid: u32,
    /// How long its disks have been served.
    pub uptime_ms: u64,
}

/// Gives the schema of all methods.
#[derive(Debug)]
pub enum Schema {}

impl Method for Schema {
    const NAME: &'static str = "schema";
    const ABOUT: &'static str = "Gives the JSON schema of every method's parameters and result.";
    type Params = NoParams;
    type Result = serde_json::Value;
}

/// Lists the disks.
#[derive(Debug)]
pub enum Disks {}

impl Method for Disks {
    const NAME: &'static str = "disks";
    const ABOUT: &'static str = "Lists the disks that are served.";
    type Params = NoParams;
    type Result = DiskList;
}

/// The disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskList {
    /// In the order of the configuration.
    pub disks: Vec<DiskInfo>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskInfo {
    /// Its name.
    pub name: String,
    /// What holds its data, as in the configuration: `malloc`, `aio`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Its device node or socket.
    pub path: Option<PathBuf>,
    /// How guests get at it: `virtio-vdpa`, `vhost-vdpa`, `vhost-user`.
    pub transport: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its logical block size.
    pub block_size: u32,
    /// Whether guests may only read.
    pub read_only: bool,
    /// Whether a driver or a client has it.
    pub attached: bool,
    /// Entries that each queue may have.
    pub queue_size: u16,
    /// Its virtqueues and the cores that serve them.
    pub queues: Vec<QueueInfo>,
}

/// One virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueueInfo {
    /// Its number on the disk.
    pub index: u16,
    /// The core that serves it.
    pub core: usize,
}

/// Lists the block devices.
#[derive(Debug)]
pub enum Bdevs {}

impl Method for Bdevs {
    const NAME: &'static str = "bdevs";
    const ABOUT: &'static str = "Lists the block devices under the disks, as trees.";
    type Params = NoParams;
    type Result = BdevList;
}

/// The block devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BdevList {
    /// The top of each disk's stack.
    pub bdevs: Vec<BdevInfo>,
    /// Those at the top of stacks that no disk stands on; none of them is open.
    #[serde(default)]
    pub unused: Vec<UnusedBdev>,
}

/// One block device of the configuration that is not open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnusedBdev {
    /// Its name.
    pub name: String,
    /// Its kind, as in the configuration.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One block device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BdevInfo {
    /// Its name.
    pub name: String,
    /// Its kind, as in the configuration.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its logical block size.
    pub block_size: u32,
    /// Below this size a write costs a read as well.
    pub physical_block_size: u32,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// What it can do beyond reading and writing.
    pub caps: Caps,
    /// Those that it is made of.
    pub children: Vec<BdevInfo>,
}

/// What a block device can do beyond reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Caps {
    /// It has a volatile cache that can be made durable.
    pub flush: bool,
    /// Blocks can be given back.
    pub discard: bool,
    /// Blocks can be zeroed without sending zeroes.
    pub write_zeroes: bool,
}

/// Tells how the reactors spend their time.
#[derive(Debug)]
pub enum Reactors {}

impl Method for Reactors {
    const NAME: &'static str = "reactors";
    const ABOUT: &'static str = "Tells how the reactors have spent their time since they were started.";
    type Params = NoParams;
    type Result = ReactorList;
}

/// The reactors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReactorList {
    /// One for each polled core.
    pub reactors: Vec<ReactorInfo>,
}

/// One reactor; it publishes these figures every thousand iterations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReactorInfo {
    /// Its core.
    pub core: usize,
    /// Time in iterations that did something.
    pub busy_ns: u64,
    /// Time in iterations that did nothing.
    pub idle_ns: u64,
    /// Iterations.
    pub iterations: u64,
    /// The longest iteration in which something was done.
    pub longest_iteration_ns: u64,
    /// io_uring_enter calls.
    pub enters: u64,
}
