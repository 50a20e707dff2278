//! A vhost-user-blk server as target: what a VM's driver could get out of it at best.
//!
//! ```text
//!   handshake features, size and memory, through the `vhost` crate
//!   session   rings set up, the connection watched               all of it on the calling thread
//!   memory    one memfd with rings, headers, data of all queues  shared with the server
//!   layout    where in it everything lies
//!   split     the driver's side of one split ring                on its polling thread
//! ```

mod handshake;
mod layout;
mod memory;
mod session;
mod split;

pub use session::{VhostUser, VhostUserOptions};
pub use split::SplitLane;
