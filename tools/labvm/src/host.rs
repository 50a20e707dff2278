//! A scenario's line to the host: one wish, one answer.

use crate::fail::{Fail, ensure};
use crate::protocol::{Answer, WISHES_PORT, Wish};
use crate::results::port_path;
use crate::wait::wait_some;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The host itself waits for the guest to let go of a device, so this is longer than its own bounds together.
const ANSWER_LIMIT_S: u64 = 120;

/// The open port; there can be only one.
pub(crate) struct Host {
    port: File,
    path: PathBuf,
}

impl Host {
    pub(crate) fn open() -> Result<Host, Fail> {
        let path = port_path(WISHES_PORT)?;
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let port = options.open(&path).map_err(Fail::file("open", &path))?;
        Ok(Host { port, path })
    }

    /// Asks, and waits until the host has done it.
    pub(crate) fn ask(&mut self, wish: Wish) -> Result<(), Fail> {
        let what = format!("the host's answer to {wish:?}");
        let json = |source| Fail::Json { what: what.clone(), source };
        let mut line = serde_json::to_vec(&wish).map_err(json)?;
        line.push(b'\n');
        self.port.write_all(&line).map_err(Fail::file("write", &self.path))?;
        let mut text = Vec::new();
        wait_some(&what, ANSWER_LIMIT_S, || {
            let mut piece = [0; 1024];
            // No data yet is an error here, a host that has not connected yet an end of file: both may pass.
            let len_bytes = self.port.read(&mut piece).unwrap_or(0);
            text.extend_from_slice(&piece[..len_bytes]);
            text.ends_with(b"\n").then_some(())
        })?;
        let answer: Answer = serde_json::from_slice(&text).map_err(json)?;
        ensure!(answer.is_ok(), "the host cannot do {wish:?}: {}", answer.err().unwrap_or_default());
        Ok(())
    }
}
