//! What can be asked of a running `serve`, as types: one for each method of its control socket, with the type of its
//! parameters and of its result.
//!
//! ```text
//!   Client ──{"method", "params"}──► control socket ──► control::methods      (JSON-RPC 2.0)
//!      ▲                                                       │
//!      └──────────{"result"} or {"error"}◄─────────────────────┘
//!              both ends speak in these types; `schema` is made from them
//! ```
//!
//! Contract: within one [`API_VERSION`] fields are added to results and optional ones to parameters, nothing else. So a
//! reader passes over what it does not know in results, while parameters that the daemon does not know are refused.
//! Names carry their units; every duration is in nanoseconds but for those of people (`uptime_ms`).

mod change;
mod client;
mod configure;
mod measure;
mod names;
mod reading;
mod schema;
mod status;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use change::*;
pub use client::{Client, FetchedHistogram, decode_histogram, encode_histogram, fetch_histograms};
pub use configure::*;
pub use measure::*;
pub use names::{Class, Op, StageName};
pub use reading::{Latencies, ReadAt};
pub use schema::{METHODS, MethodSchema, document};
pub use status::*;

/// The version of this interface.
pub const API_VERSION: u32 = 1;

/// Where `ctl` looks for a daemon that it is not told of.
pub const DEFAULT_SOCKET: &str = "/run/spinblk/control.sock";

/// One method: its name, what it takes and what it gives.
pub trait Method {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What it is for, in one sentence.
    const ABOUT: &'static str;
    /// Whether it changes what is served, which may take as long as draining a disk does.
    const IS_CHANGE: bool = false;
    /// Its parameters, a JSON object.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// Its result.
    type Result: Serialize + DeserializeOwned + JsonSchema;
}

/// The parameters of a method that has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}
