//! What messages are checked for before they are believed.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use vhost::vhost_user::Result;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use crate::Error;
use crate::session::Session;

impl Session {
    /// The protocol features offered.
    pub(crate) fn protocol_features() -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::STATUS
    }

    pub(crate) fn not_offered<T>(&self, request: &'static str) -> Result<T> {
        Err(Error::NotOffered { name: self.disk.name.clone(), request }.into())
    }

    pub(crate) fn check_features(&self, kind: &'static str, asked: u64, offered: u64) -> Result<()> {
        match asked & !offered {
            0 => Ok(()),
            extra => Err(Error::Features { name: self.disk.name.clone(), kind, asked, extra }.into()),
        }
    }

    /// The queue that a message changes in a way that only a stopped one allows.
    pub(crate) fn check_stopped(&mut self, index: u32, what: &str) -> Result<()> {
        let (name, queue) = (self.disk.name.clone(), index as usize);
        if self.queue(index)?.is_running() {
            let reason = format!("the client changes its {what} while it runs");
            return Err(Error::Vring { name, queue, reason }.into());
        }
        Ok(())
    }

    /// A descriptor that the reactor may write to: nothing but an eventfd, which no write can hang on or harm.
    pub(crate) fn eventfd(&self, queue: usize, file: File) -> std::result::Result<OwnedFd, Error> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match link {
            Ok(target) if target.as_os_str() == "anon_inode:[eventfd]" => Ok(file.into()),
            Ok(target) => Err(Error::Vring {
                name: self.disk.name.clone(),
                queue,
                reason: format!("its call descriptor is {}, an eventfd is wanted", target.display()),
            }),
            Err(source) => {
                Err(Error::Thread { name: self.disk.name.clone(), what: "a queue's call descriptor", source })
            }
        }
    }
}
