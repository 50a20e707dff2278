//! The control socket of `serve`: answers questions about the disks while they run, and serves Prometheus.
//!
//! ```text
//!   clients ──JSON values, one after the other──► frame ──► rpc ──► methods ──► State: boards, counters, baseline
//!   Prometheus ──GET /metrics───────────────────► metrics ─────────────────────►  │ read as they are, atomics
//!                   └── connection ──┘                                            ▼
//!               server: one thread, poll()                              reactors, which never notice
//!                              │ a change of what is served
//!                              └──► changes: to the main thread, which owns the disks; the outcome comes back
//! ```
//!
//! Contract:
//! - One thread, off the reactor cores. It reads boards and counters, which reactors write; it never sends a reactor a
//!   job, takes a lock that a reactor takes, or stops anything.
//! - It changes nothing that is served: it asks whoever owns the disks, and goes on answering meanwhile. One change is made
//!   at a time; the client that asked waits for its answer, and more than a few that wait are refused.
//! - Whoever can open the socket (mode 0600) may ask everything. Whatever a client sends, sends half, or does not read
//!   ends its own connection at worst: requests, answers, clients and waiting times are bounded ([`Limits`]).
//! - A client gets a turn after each of its requests; an answer that it does not read keeps it from asking more.
//!
//! A new method is a type in `api`, one function in `methods`, and a line in the table of each; a change is a case of
//! `Change`, too.

mod changes;
mod connection;
mod frame;
mod hist_log;
mod listener;
mod log_filter;
mod methods;
mod rpc;
mod server;
mod state;

pub(crate) use changes::{Change, ChangeQueue, Outcome, changes};
pub use frame::{FrameError, Framer};
pub use hist_log::HistLog;
pub use listener::{Bound, Endpoints, MetricsAddress};
pub(crate) use listener::{METRICS_FORMS, SOCKET_FORMS, socket_path};
pub use log_filter::LogFilter;
pub use methods::names;
pub(crate) use methods::{disk_info, latency_of};
pub use rpc::{Answer, answer};
pub use server::{Control, Limits};
pub(crate) use state::lock;
pub use state::{Disk, Queue, ReadReactor, State};
