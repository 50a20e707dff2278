//! What becomes of an I/O whose operation failed: most errors are its own, some mean "in another way, please".
//!
//! | errno                | where                                   | then                                                |
//! |----------------------|-----------------------------------------|-----------------------------------------------------|
//! | EINTR, EAGAIN        | anywhere                                | again, a thousand times in a row at most            |
//! | EOPNOTSUPP, EINVAL   | polled                                  | again by interrupt, and so is all that follows      |
//! | EOPNOTSUPP, EINVAL   | several pieces of a registered buffer   | again as plain pieces, and so is all that follows   |
//! | EINVAL               | O_DIRECT with the caller's memory       | again through a bounce buffer                       |
//! | EOPNOTSUPP           | zeroing that gives blocks back          | again, keeping the blocks                           |
//!
//! The first line that fits is taken, and each but the topmost is taken once for an I/O at most, so that it comes to an end.

use spinblk_reactor::Ring;

use super::active::Active;
use super::channel::AioChannel;
use crate::{IoError, Op};

impl AioChannel {
    /// What a failed operation means for its I/O: its error, or `None` when it goes on.
    #[cold]
    pub(super) fn failed(&mut self, mut active: Active, errno: i32, ring: &mut Ring) -> Option<IoError> {
        let refused = matches!(errno, libc::EINVAL | libc::EOPNOTSUPP);
        match errno {
            libc::EINTR | libc::EAGAIN if active.may_retry() => self.counters.retries += 1,
            _ if refused && active.polled => {
                self.polled = false;
                self.target.stop_polling(&self.info.name, errno);
            }
            // A file system may not take vectors in a registered buffer; all take plain ones.
            _ if refused && active.used_fixed_vectors() => self.fixed_vectors = false,
            // O_DIRECT asks for more than the kernel said at open; a bounce buffer meets anything.
            libc::EINVAL if active.transfers() && self.bounce.is_some() && active.bounce.is_none() => {
                self.issue_bounced(active, ring);
                return None;
            }
            // A block device may learn only now that it cannot unmap. Plain zeroing it cannot refuse: where the
            // device has no command for it, the block layer writes zeroes.
            libc::EOPNOTSUPP if active.may_punch && active.io.op() == (Op::WriteZeroes { unmap: true }) => {
                active.may_punch = false;
            }
            errno => return Some(IoError::from_errno(errno)),
        }
        self.issue(active, ring);
        None
    }
}
