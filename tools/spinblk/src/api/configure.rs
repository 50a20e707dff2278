//! Methods that change what is served. They wait until it is done, one at a time; others are answered meanwhile.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DiskInfo, Method};

/// A section of the configuration, in the form that is at hand. Keys, values and refusals are those of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    /// Its keys and values.
    Keys(Map<String, Value>),
    /// A text with `[[bdev]]` sections; for `disk_add` with one `[[disk]]`, too.
    Toml(String),
    /// KEY=VALUE with commas between, as in `serve --disk`.
    Flags(String),
}

/// Adds bdevs.
#[derive(Debug)]
pub enum BdevAdd {}

impl Method for BdevAdd {
    const NAME: &'static str = "bdev_add";
    const ABOUT: &'static str = "Adds a bdev to the configuration; it is opened when a disk stands on it.";
    const IS_CHANGE: bool = true;
    type Params = Given;
    type Result = BdevAdded;
}

/// What was added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BdevAdded {
    /// The names of the bdevs.
    pub bdevs: Vec<String>,
}

/// Removes a bdev.
#[derive(Debug)]
pub enum BdevRemove {}

impl Method for BdevRemove {
    const NAME: &'static str = "bdev_remove";
    const ABOUT: &'static str = "Removes a bdev that no disk and no other bdev stands on.";
    const IS_CHANGE: bool = true;
    type Params = BdevName;
    type Result = BdevName;
}

/// A bdev.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BdevName {
    /// Its name.
    pub bdev: String,
}

/// Adds a disk.
#[derive(Debug)]
pub enum DiskAdd {}

impl Method for DiskAdd {
    const NAME: &'static str = "disk_add";
    const ABOUT: &'static str = "Adds a disk and serves it on the reactors that there are.";
    const IS_CHANGE: bool = true;
    type Params = Given;
    type Result = DiskAdded;
}

/// The new disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskAdded {
    /// As `disks` shows it.
    pub disk: DiskInfo,
}

/// Removes a disk.
#[derive(Debug)]
pub enum DiskRemove {}

impl Method for DiskRemove {
    const NAME: &'static str = "disk_remove";
    const ABOUT: &'static str =
        "Drains a disk, takes it away from its driver or client, and removes it. Its bdevs stay, unused.";
    const IS_CHANGE: bool = true;
    type Params = DiskName;
    type Result = DiskRemoved;
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskName {
    /// Its name.
    pub disk: String,
}

/// The disk that is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskRemoved {
    /// Its name.
    pub disk: String,
    /// What went wrong while it was put away, in sentences. It is not served any more all the same.
    pub problems: Vec<String>,
}

/// Changes a size.
#[derive(Debug)]
pub enum Resize {}

impl Method for Resize {
    const NAME: &'static str = "resize";
    const ABOUT: &'static str = "Gives a disk or one of the bdevs under it another size, or finds out its target's, and tells the guest.";
    const IS_CHANGE: bool = true;
    type Params = ResizeParams;
    type Result = Resized;
}

/// What is to have which size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResizeParams {
    /// This disk: the bdev at its top.
    pub disk: Option<String>,
    /// Or this bdev, which a disk must stand on.
    pub bdev: Option<String>,
    /// The size to have; without it, what the target has now.
    pub size_bytes: Option<u64>,
}

/// The sizes now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resized {
    /// The bdev.
    pub bdev: String,
    /// Its size.
    pub bdev_size_bytes: u64,
    /// The disk that stands on it.
    pub disk: String,
    /// Its size.
    pub disk_size_bytes: u64,
}

/// Tells the configuration.
#[derive(Debug)]
pub enum SaveConfig {}

impl Method for SaveConfig {
    const NAME: &'static str = "save_config";
    const ABOUT: &'static str =
        "Gives the running configuration as TOML, and writes it to a file if told so.";
    const IS_CHANGE: bool = true;
    type Params = SaveConfigParams;
    type Result = SavedConfig;
}

/// Where to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SaveConfigParams {
    /// A file, as an absolute path; one that is there is replaced at once.
    pub path: Option<PathBuf>,
}

/// The running configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SavedConfig {
    /// A text that `serve --config` takes.
    pub toml: String,
    /// Where it was written.
    pub path: Option<PathBuf>,
}
