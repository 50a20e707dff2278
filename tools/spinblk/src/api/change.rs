//! Methods that change what is measured and told; none touches a disk.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Method, NoParams};

/// Starts counting anew.
#[derive(Debug)]
pub enum Reset {}

impl Method for Reset {
    const NAME: &'static str = "reset";
    const ABOUT: &'static str =
        "Makes `stats` and `histograms` count from now on. Prometheus metrics and `slow` stay as they are.";
    type Params = NoParams;
    type Result = ResetResult;
}

/// What was counted until now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResetResult {
    /// How long it had been counted.
    pub since_ms: u64,
}

/// Says what is slow.
#[derive(Debug)]
pub enum SetThreshold {}

impl Method for SetThreshold {
    const NAME: &'static str = "set_threshold";
    const ABOUT: &'static str = "Says from when on a request of a disk is slow.";
    type Params = SetThresholdParams;
    type Result = SetThresholdResult;
}

/// Of which disk, and what is slow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetThresholdParams {
    /// The disk.
    pub disk: String,
    /// Slow is what took longer.
    pub threshold: Threshold,
}

/// A threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "wanted: a number of nanoseconds, or \"auto\"")]
pub enum Threshold {
    /// This many nanoseconds.
    Ns(u64),
    /// What finds the slowest in a thousand.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Auto {
    /// By itself.
    #[serde(rename = "auto")]
    Auto,
}

/// What it was set to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SetThresholdResult {
    /// The disk.
    pub disk: String,
    /// Its threshold now.
    pub threshold: Threshold,
    /// Queues that have it.
    pub queues: usize,
}

/// Says what is logged.
#[derive(Debug)]
pub enum LogLevel {}

impl Method for LogLevel {
    const NAME: &'static str = "log_level";
    const ABOUT: &'static str = "Says what the daemon logs from now on.";
    type Params = LogLevelParams;
    type Result = LogLevelResult;
}

/// What is to be logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevelParams {
    /// As `--log`: a level such as `debug`, or CRATE=LEVEL with commas between.
    pub filter: String,
}

/// What was logged until now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLevelResult {
    /// The filter before.
    pub before: String,
    /// The filter now.
    pub filter: String,
}
