//! Copies a growing log to stdout.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

/// The log, and how far it was copied.
pub(super) struct Follower {
    path: PathBuf,
    source: Option<File>,
    wanted: bool,
}

impl Follower {
    pub(super) fn new(path: PathBuf, wanted: bool) -> Follower {
        Follower { path, source: None, wanted }
    }

    pub(super) fn copy(&mut self) {
        if !self.wanted {
            return;
        }
        if self.source.is_none() {
            self.source = File::open(&self.path).ok();
        }
        let mut news = Vec::new();
        if let Some(source) = &mut self.source
            && source.read_to_end(&mut news).is_ok()
        {
            let mut stdout = std::io::stdout().lock();
            // A terminal that went away is no reason to stop the machine.
            let _ = stdout.write_all(&news).and_then(|()| stdout.flush());
        }
    }
}
