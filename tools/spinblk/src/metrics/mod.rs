//! What Prometheus is told: the counters and latencies of the disks, in its text format.
//!
//! ```text
//!   GET /metrics ──► http: one bounded request, no keep-alive ──► text: State, as it is now
//! ```
//! Contract: counters count from the disks' beginning and never go back, whatever is reset on the control socket. The
//! buckets of latencies are exact: their bounds are bounds of the boards' own buckets.

mod format;
mod http;
mod text;

pub use http::Scrape;
pub use text::render;
