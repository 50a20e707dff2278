//! The way home for results: two virtio-serial ports, one for events as they happen, one for a tar at the end.

use crate::command::Cmd;
use crate::fail::Fail;
use crate::protocol::{EVENTS_PORT, Event, FILES_PORT};
use crate::state::{names_in, text_of};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Result files of scenario NAME lie in a folder of that name under this one.
pub(crate) const OUT_DIR: &str = "/tmp/out";
const PORTS: &str = "/sys/class/virtio-ports";
const PACK_LIMIT_S: u64 = 10;

/// The stream of events to the host.
pub(crate) struct Events {
    port: File,
}

impl Events {
    /// Opens the port.
    pub(crate) fn open() -> Result<Events, Fail> {
        let path = port_path(EVENTS_PORT)?;
        let port = File::options().write(true).open(&path).map_err(Fail::file("open", &path))?;
        Ok(Events { port })
    }

    /// Sends one event; a host that does not listen is not the guest's problem.
    pub(crate) fn send(&mut self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.port.write_all(&line);
        }
    }
}

/// Packs the result files into the port.
pub(crate) fn send_files() -> Result<(), Fail> {
    let path = port_path(FILES_PORT)?;
    Cmd::new("tar").args(["-c", "-C", OUT_DIR, "-f"]).path(&path).arg(".").limit_s(PACK_LIMIT_S).run()?;
    Ok(())
}

/// The device node of a virtio-serial port.
pub(crate) fn port_path(name: &str) -> Result<PathBuf, Fail> {
    names_in(PORTS)
        .into_iter()
        .find(|port| text_of(format!("{PORTS}/{port}/name")) == name)
        .map(|port| Path::new("/dev").join(port))
        .ok_or_else(|| Fail::Check(format!("no virtio-serial port is named {name} (looked in {PORTS})")))
}
