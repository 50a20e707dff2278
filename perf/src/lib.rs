//! Seeing latency: the clock that stamps requests and the recorders that count them.
//!
//! ```text
//!   reactor (one writer)                          anyone, after the fact
//!   Clock::now ──ticks──► Recorder::record ──────► OpStats ──merge──► report
//! ```
//!
//! Contract: recording neither allocates nor locks nor fails; every buffer is sized when the recorder is
//! made. A recorder has one writer, the reactor that owns the queue; it is handed over (or cloned) to whoever
//! wants to read it, and merged there.
//!
//! This crate is the lowest floor of the house together with `spinblk-reactor`, which takes its clock from here.

mod clock;
mod queue_stats;
mod recorder;

pub use clock::{Clock, Ticks};
pub use queue_stats::{OpKind, QueueStats};
pub use recorder::{HIGHEST_NS, OpStats, Percentiles};
