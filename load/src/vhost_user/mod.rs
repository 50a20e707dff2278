//! A vhost-user-blk server as target: what a VM's driver could get out of it at best. All of it runs on the calling
//! thread, before the load.
//!
//! ```text
//!   handshake  features, size and memory, through the `vhost` crate
//!   session    rings set up, the connection watched
//!   message    the one message that the crate cannot send
//! ```

mod handshake;
mod message;
mod session;

pub use session::VhostUser;
