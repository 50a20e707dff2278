//! A disk on the kernel's vhost-vdpa as target: what a VM's driver could get out of it at best, through the node that a
//! VM's monitor would open.
//!
//! ```text
//!   device   the character device: one ioctl a step, through the `vhost` crate; reset when dropped
//!   session  the steps in their order, the device watched
//! ```

mod device;
mod session;

pub use session::VhostVdpa;
