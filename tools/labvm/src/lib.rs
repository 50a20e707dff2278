//! The inside of the lab's virtual machine.
//!
//! `labvm` is PID 1 of the guest: it prepares the machine ([`init`]), runs each planned scenario as a child
//! process of itself, watches over it, and hands the results to the host. Scenarios are plain Rust functions
//! over the helpers of this crate:
//!
//! ```text
//!   xtask (host) --plan.json--> init --child per scenario--> scenarios::* --> spinblk, vdpa, fio, sysfs
//!        ^                       |
//!        +---- events, tar ------+        (virtio-serial ports, see results)
//!        +---- wishes, answers ------------------+   (another one, with hardware of the host only, see host)
//! ```
//!
//! The library half exists so that the host side shares the table of scenarios, the [`protocol`], and what checked data is
//! made of: [`pattern`], [`contents`], [`dice`].

pub mod contents;
pub mod dice;
pub mod pattern;
pub mod protocol;
pub mod scenarios;

pub mod blkio_client;
pub mod init;

mod block;
mod command;
mod container;
mod ctl;
mod fail;
mod fio;
mod host;
mod kernel_driver;
mod kmsg;
mod lab;
mod loop_device;
mod machine;
mod null_blk;
mod qsd;
mod results;
mod root;
mod spinblk;
mod spread;
mod stack;
mod state;
mod systemd;
mod vdpa;
mod wait;

pub use fail::Fail;
pub use lab::{Lab, run_scenario};
