//! The slot that QEMU puts a host's disk into, and the spinblk that serves it over vhost-user.

use super::backing::{BackingFiles, DISK_NAME};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::process::{command, output};
use crate::qmp::Qmp;
use labvm::protocol::{HOST_DISK_SERIAL, HostDisk};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For the guest's driver to let go of the disk.
const UNPLUG_LIMIT: Duration = Duration::from_secs(60);
/// For QEMU to close a connection, and spinblk to notice.
const CLOSE_LIMIT_S: u64 = 10;
const CTL_LIMIT_S: u64 = 30;
const STEP: Duration = Duration::from_millis(50);

/// The disk, its daemon, and QEMU's connection between them.
pub(super) struct Slot {
    disk: HostDisk,
    program: PathBuf,
    socket: PathBuf,
    folder: PathBuf,
    files: BackingFiles,
    /// None only while one follows another.
    daemon: Option<Daemon>,
    /// Whether the disk is in it.
    plugged: bool,
    /// How often QEMU has connected to this daemon.
    connections: usize,
    /// What the daemons before it did.
    done: Vec<String>,
}

impl Slot {
    /// Starts spinblk; its logs go into the folder.
    pub(super) fn start(program: &Path, disk: HostDisk, socket: PathBuf, folder: &Path) -> Result<Slot> {
        let mut slot = Slot {
            disk,
            program: program.to_owned(),
            socket,
            folder: folder.to_owned(),
            files: BackingFiles::create(disk, folder)?,
            daemon: None,
            plugged: true,
            connections: 1,
            done: Vec::new(),
        };
        slot.start_daemon()?;
        Ok(slot)
    }

    /// QEMU's arguments: memory that spinblk can map, and the slot with the disk in it.
    pub(super) fn arguments(&self, memory_mib: u32) -> Vec<String> {
        let words = [
            "-object",
            &format!("memory-backend-memfd,id=memory,size={memory_mib}M,share=on"),
            "-numa",
            "node,memdev=memory",
            "-device",
            "pcie-root-port,id=disk-slot,chassis=1",
            "-chardev",
            &format!("socket,id={},path={},reconnect-ms=200", self.connection(), self.socket.display()),
            "-device",
            &self.device().to_string(),
        ];
        words.map(str::to_owned).to_vec()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Daemon::is_alive)
    }

    /// Out of the slot, and then the connection, which QEMU would keep for another device.
    pub(super) fn unplug(&mut self, monitor: &mut Qmp) -> Result<()> {
        let deadline = Instant::now() + UNPLUG_LIMIT;
        monitor.execute("device_del", &json!({"id": "disk"}))?;
        while monitor.take_event("DEVICE_DELETED", |data| data["device"] == "disk")?.is_none() {
            wait_until(deadline, "the guest did not let go of the disk")?;
        }
        self.plugged = false;
        // The device itself goes a moment later, and its connection is busy until then.
        while let Err(refusal) = monitor.execute("chardev-remove", &json!({"id": self.connection()})) {
            wait_until(deadline, &refusal.to_string())?;
        }
        match &mut self.daemon {
            Some(daemon) => daemon.wait_until_left(self.connections, CLOSE_LIMIT_S),
            None => Ok(()),
        }
    }

    pub(super) fn plug(&mut self, monitor: &mut Qmp) -> Result<()> {
        self.connections += 1;
        self.plugged = true;
        let address = json!({"type": "unix", "data": {"path": self.socket}});
        let backend = json!({"type": "socket", "data": {"addr": address, "server": false}});
        monitor.execute("chardev-add", &json!({"id": self.connection(), "backend": backend}))?;
        monitor.execute("device_add", &self.device())
    }

    /// Ends spinblk, and starts another one for the same disk; if that is in the slot, QEMU connects to it by itself.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.end_daemon()?;
        self.connections = usize::from(self.plugged);
        self.start_daemon()
    }

    /// Kills spinblk and starts another one for the same disk; QEMU connects to it by itself.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.end_killed();
        self.start_daemon()
    }

    /// The same, and another one dies in between, so long after its start.
    pub(super) fn kill_twice(&mut self, after_ms: u64) -> Result<()> {
        self.end_killed();
        let (config, stem) = (self.config(), self.stem());
        self.daemon = Some(Daemon::spawn(&self.program, self.disk, &config, &stem)?);
        std::thread::sleep(Duration::from_millis(after_ms));
        self.kill()
    }

    fn end_killed(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
            self.done.push("killed".to_owned());
        }
        self.connections = 1;
    }

    /// Stops spinblk where it is, or lets it go on.
    pub(super) fn freeze(&mut self, is_frozen: bool) -> Result<()> {
        let missing = || Error::Lab("there is no spinblk to freeze".to_owned());
        self.daemon.as_ref().map(|daemon| daemon.freeze(is_frozen)).ok_or_else(missing)
    }

    /// Makes the disk larger while it is served.
    pub(super) fn grow(&self, size_mib: u64) -> Result<()> {
        let mut ctl = command(&self.program.to_string_lossy(), ["ctl", "--socket"]);
        ctl.arg(self.control()).args(["resize", DISK_NAME, &format!("{size_mib}MiB")]);
        output(ctl, CTL_LIMIT_S).map(drop)
    }

    /// Ends spinblk, asks whether all went well, and says in a line what it did.
    pub(super) fn finish(mut self) -> Result<String> {
        self.end_daemon()?;
        Ok(format!("spinblk on the host: {}", self.done.join("; ")))
    }

    fn start_daemon(&mut self) -> Result<()> {
        let (config, stem) = (self.config(), self.stem());
        self.daemon = Some(Daemon::start(&self.program, self.disk, &config, &stem)?);
        Ok(())
    }

    /// What the files of the next daemon are called.
    fn stem(&self) -> PathBuf {
        self.folder.join(format!("spinblk-{}", self.done.len() + 1))
    }

    fn config(&self) -> String {
        self.files.config(&format!(
            "queues = {}\nserial = \"{HOST_DISK_SERIAL}\"\ntransport = \"vhost-user\"\nsocket = \"{}\"\n\n\
             [control]\nsocket = \"{}\"\n",
            self.disk.queues,
            self.socket.display(),
            self.control().display()
        ))
    }

    fn end_daemon(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            let done = daemon.finish(self.connections)?;
            self.done.push(format!("{done}, connections: {}", self.connections));
        }
        Ok(())
    }

    /// Where the daemon is told what to do.
    fn control(&self) -> PathBuf {
        self.socket.with_extension("ctl")
    }

    /// QEMU's name for the present connection to spinblk.
    fn connection(&self) -> String {
        format!("disk-{}-{}", self.done.len() + 1, self.connections)
    }

    /// The disk, as both `-device` and `device_add` take it.
    fn device(&self) -> Value {
        json!({
            "driver": "vhost-user-blk-pci",
            "id": "disk",
            "bus": "disk-slot",
            "chardev": self.connection(),
            "num-queues": self.disk.queues,
            "packed": self.disk.packed,
        })
    }
}

fn wait_until(deadline: Instant, complaint: &str) -> Result<()> {
    if Instant::now() >= deadline {
        return Err(Error::Lab(complaint.to_owned()));
    }
    std::thread::sleep(STEP);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use labvm::protocol::Backing;

    const GUIDE: &str = include_str!("../../../../docs/GUIDE_VMS.md");

    /// What people are told to type is what the lab boots with, names and sizes aside.
    #[test]
    fn the_guide_names_the_options_that_machines_here_are_started_with() {
        let disk = HostDisk { size_mib: 1, queues: 2, packed: false, backing: Backing::Malloc };
        let folder = tempfile::tempdir().unwrap();
        let slot = Slot {
            disk,
            program: PathBuf::new(),
            socket: PathBuf::from("/run/spinblk/vm0.sock"),
            folder: PathBuf::new(),
            files: BackingFiles::create(disk, folder.path()).unwrap(),
            daemon: None,
            plugged: true,
            connections: 1,
            done: Vec::new(),
        };
        let arguments = slot.arguments(4096);
        for argument in arguments.iter().filter(|argument| !argument.starts_with('{')) {
            let argument = argument.replace(&slot.connection(), "disk").replace("=200", "=1000");
            assert!(GUIDE.contains(&argument), "{argument}");
        }
        let device = slot.device();
        assert!(GUIDE.contains(&format!("-device {},chardev=disk", device["driver"].as_str().unwrap())));
        for key in device.as_object().unwrap().keys().filter(|key| *key != "driver") {
            assert!(GUIDE.contains(&format!("{key}=")), "{key}");
        }
    }
}
