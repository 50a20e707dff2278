//! The polled ring: made when the first leaf asks for it, given up for good when the kernel refuses something it needs.

use std::io;

use tracing::warn;

use super::Ring;
use super::instance::Instance;

impl Ring {
    /// Makes the core's polled ring, unless it is there: buffers and files registered so far are valid in it too, and so are
    /// those that follow. `false` when the kernel refuses, now or before, which is said once. Control path.
    pub fn start_polling(&mut self) -> bool {
        if self.polled.is_none() && !self.polling_given_up {
            match self.make_polled() {
                Ok(polled) => self.polled = Some(Box::new(polled)),
                Err(e) => self.give_up_polling(&e),
            }
        }
        !self.polling_given_up
    }

    fn make_polled(&self) -> io::Result<Instance> {
        let mut polled = Instance::new(self.entries, true)?;
        polled.reserve(self.depth());
        if !self.buffers.0.is_empty() {
            polled.make_buffer_table(self.buffers.0.len())?;
        }
        if !self.files.is_empty() {
            polled.make_file_table(self.files.len())?;
        }
        for (slot, buffer) in self.buffers.0.iter().enumerate() {
            let Some(buffer) = buffer else { continue };
            // SAFETY: it is mapped for as long as it is in our table, as `acquire_buffer`'s caller promised.
            unsafe { polled.set_buffer(slot, buffer.addr, buffer.len_bytes)? };
        }
        for (slot, file) in self.files.iter().enumerate() {
            let Some(fd) = file else { continue };
            polled.set_file(slot, *fd)?;
        }
        Ok(polled)
    }

    fn give_up_polling(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.polling_given_up, true) {
            warn!("io_uring: no polled ring on this core ({error}); its devices complete by interrupts");
        }
    }

    /// Does in the polled ring, if there is one, what was done in the main one; without that it is of no use.
    pub(super) fn repeat_in_polled(&mut self, register: impl FnOnce(&Instance) -> io::Result<()>) {
        if let Some(polled) = &self.polled
            && let Err(e) = register(polled)
        {
            self.give_up_polling(&e);
        }
    }
}
