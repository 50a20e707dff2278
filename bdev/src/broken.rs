//! The channel of a device that could not be opened: every I/O fails. It lets a driver that is already probing see I/O
//! errors, where no answer at all would hang it.

use spinblk_reactor::Ring;

use crate::{Channel, Completion, Io, IoError, IoResult};

/// Fails every I/O with EIO.
#[derive(Debug)]
pub struct BrokenChannel;

impl Channel for BrokenChannel {
    fn submit(&mut self, _: &Io, _: &mut Ring) -> Option<IoResult> {
        Some(Err(IoError::Errno(libc::EIO)))
    }
    fn poll(&mut self, _: &mut Ring, _: &mut Vec<Completion>) {}
    fn close(&mut self, _: &mut Ring) {}
}
