//! Seeing latency: the clock that stamps requests, and where their times are kept.
//!
//! ```text
//!   reactor (one writer)                                  anyone, at any time
//!   Clock::now ──Stamps──► QueueBoard::record ═ atomics ═► snapshot ──merge, since──► report
//!                            histograms, slow requests
//! ```
//!
//! Contract: recording neither allocates nor locks nor fails; every buffer is sized when the board is made. A board has
//! one writer, the reactor that owns the queue; readers neither stop nor slow it (`histogram`, `slow` say why).
//! [`OpStats`] is the plain, unshared kind, for a load generator's lanes.
//!
//! This crate is the lowest floor of the house together with `spinblk-reactor`, which takes its clock from here.

mod board;
mod clock;
mod histogram;
mod kind;
mod recorder;
mod seqlock;
mod slow;
mod snapshot;
mod stage;

pub use board::{BATCH_CLASSES, Group, QueueBoard};
pub use clock::{Clock, Ticks};
pub use histogram::{DIGITS, Latency, MAX_NS, SharedHistogram};
pub use kind::OpKind;
pub use recorder::{HIGHEST_NS, OpStats, Percentiles};
pub use slow::{SlowIo, SlowLog};
pub use snapshot::{BackendCounters, OpSnapshot, QueueSnapshot};
pub use stage::{SizeClass, Stage, Stamps};
