//! A disk over vhost-user for one machine: spinblk on the host, the slot that QEMU puts the disk into, and the
//! hands that do what a scenario in the guest wishes.

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::lines::JsonLines;
use crate::qmp::Qmp;
use labvm::protocol::{Answer, HostDisk, WISHES_PORT, Wish};
use serde_json::{Value, json};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For the guest's driver to let go of the disk.
const UNPLUG_LIMIT: Duration = Duration::from_secs(60);
/// For QEMU to close a connection, and spinblk to notice.
const CLOSE_LIMIT_S: u64 = 10;
const STEP: Duration = Duration::from_millis(50);

/// What surrounds one machine with such a disk.
pub(crate) struct Rig {
    disk: HostDisk,
    daemon: Daemon,
    /// The sockets' place: a short path, because the kernel allows no long one.
    sockets: TempDir,
    /// QEMU connects to both of these when it starts.
    monitor_door: UnixListener,
    wishes_door: UnixListener,
    monitor: Option<Qmp>,
    wishes: Option<JsonLines>,
    boots: u32,
    reboots_left: u32,
    /// How often QEMU has connected to spinblk.
    connections: usize,
    /// The first thing that went wrong outside of a wish, if it is not the machine's end.
    problem: Option<Error>,
    /// There is nothing more to do.
    over: bool,
}

impl Rig {
    /// Starts spinblk for a machine that boots so many times; logs go into the folder.
    pub(crate) fn start(spinblk: &Path, disk: HostDisk, boots: u32, folder: &Path) -> Result<Rig> {
        let sockets = tempfile::Builder::new().prefix("spinblk-lab-").tempdir();
        let sockets = sockets.map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
        let (monitor_door, wishes_door) =
            (listen(&sockets.path().join("qmp"))?, listen(&sockets.path().join("wishes"))?);
        let daemon = Daemon::start(spinblk, disk, &sockets.path().join("disk"), folder)?;
        Ok(Rig {
            disk,
            daemon,
            sockets,
            monitor_door,
            wishes_door,
            monitor: None,
            wishes: None,
            boots,
            reboots_left: boots.saturating_sub(1),
            connections: 1,
            problem: None,
            over: false,
        })
    }

    /// How often the machine boots, if nothing goes wrong.
    pub(crate) fn boots(&self) -> u32 {
        self.boots
    }

    /// QEMU's arguments: memory that spinblk can map, a slot with the disk in it, the monitor, the port for wishes.
    pub(crate) fn arguments(&self, memory_mib: u32) -> Vec<String> {
        let socket = |id: &str, name: &str| format!("socket,id={id},path={}", self.socket(name).display());
        let words = [
            "-object",
            &format!("memory-backend-memfd,id=memory,size={memory_mib}M,share=on"),
            "-numa",
            "node,memdev=memory",
            "-device",
            "pcie-root-port,id=disk-slot,chassis=1",
            "-chardev",
            &socket(&self.connection(), "disk"),
            "-device",
            &self.device().to_string(),
            "-chardev",
            &socket("monitor", "qmp"),
            "-mon",
            "chardev=monitor,mode=control",
            "-chardev",
            &socket("wishes", "wishes"),
            "-device",
            &format!("virtserialport,chardev=wishes,name={WISHES_PORT}"),
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Does what there is to do now; called every now and then while the machine runs. False: it need not run on, for
    /// without spinblk its disk never answers.
    pub(crate) fn turn(&mut self) -> bool {
        match self.try_turn() {
            Ok(()) => {}
            // Both connections, in any order: the machine ends.
            Err(Error::Closed(_)) => self.over = true,
            Err(error) => {
                self.over = true;
                self.problem = Some(error);
            }
        }
        self.daemon.is_alive()
    }

    /// Ends spinblk, asks whether all went well, and says in a line what it did. The machine has ended, after as
    /// many boots as given.
    pub(crate) fn finish(self, boots: usize) -> Result<String> {
        let (clients, problem, planned) = (self.connections, self.problem, self.boots);
        let done = self.daemon.finish(clients).map_err(|error| match problem {
            Some(problem) => Error::Lab(format!("{error}\nand before that: {problem}")),
            None => error,
        })?;
        if u32::try_from(boots) != Ok(planned) {
            return Err(Error::Lab(format!("boots of the machine: {boots}, planned: {planned}")));
        }
        Ok(format!("spinblk on the host: {done}; connections: {clients}, boots: {boots}"))
    }

    fn try_turn(&mut self) -> Result<()> {
        if self.over {
            return Ok(());
        }
        if self.monitor.is_none() {
            self.monitor = accept(&self.monitor_door)?.map(Qmp::new).transpose()?;
        }
        if self.wishes.is_none() {
            let stream = accept(&self.wishes_door)?;
            self.wishes = stream.map(|stream| JsonLines::new(stream, "the guest")).transpose()?;
        }
        while let Some(wish) = self.next_wish()? {
            let answer: Answer = self.fulfil(&wish).map_err(|error| error.to_string());
            let answer = serde_json::to_value(answer);
            let answer = answer.map_err(|source| Error::Json { what: "an answer".to_owned(), source })?;
            if let Some(wishes) = &mut self.wishes {
                wishes.send(&answer)?;
            }
        }
        Ok(())
    }

    fn next_wish(&mut self) -> Result<Option<Value>> {
        self.wishes.as_mut().map_or(Ok(None), |wishes| wishes.next(Instant::now()))
    }

    fn fulfil(&mut self, wish: &Value) -> Result<()> {
        let what = || format!("the wish {wish}");
        match serde_json::from_value(wish.clone()).map_err(|source| Error::Json { what: what(), source })? {
            Wish::RebootAtReset if self.reboots_left == 0 => {
                Err(Error::Lab("this machine has been rebooted as often as planned".to_owned()))
            }
            Wish::RebootAtReset => {
                self.reboots_left -= 1;
                self.monitor()?.execute("set-action", &json!({"reboot": "reset"}))
            }
            Wish::EndAtReset => self.monitor()?.execute("set-action", &json!({"reboot": "shutdown"})),
            Wish::Unplug => self.unplug(),
            Wish::Plug => self.plug(),
        }
    }

    /// Out of the slot, and then the connection, which QEMU would keep for another device.
    fn unplug(&mut self) -> Result<()> {
        let (connection, deadline) = (self.connection(), Instant::now() + UNPLUG_LIMIT);
        let monitor = self.monitor()?;
        monitor.execute("device_del", &json!({"id": "disk"}))?;
        while monitor.take_event("DEVICE_DELETED", |data| data["device"] == "disk")?.is_none() {
            wait_until(deadline, "the guest did not let go of the disk")?;
        }
        // The device itself goes a moment later, and its connection is busy until then.
        while let Err(refusal) = monitor.execute("chardev-remove", &json!({"id": connection})) {
            wait_until(deadline, &refusal.to_string())?;
        }
        self.daemon.wait_until_left(self.connections, CLOSE_LIMIT_S)
    }

    fn plug(&mut self) -> Result<()> {
        self.connections += 1;
        let address = json!({"type": "unix", "data": {"path": self.socket("disk")}});
        let backend = json!({"type": "socket", "data": {"addr": address, "server": false}});
        let (connection, device) = (self.connection(), self.device());
        let monitor = self.monitor()?;
        monitor.execute("chardev-add", &json!({"id": connection, "backend": backend}))?;
        monitor.execute("device_add", &device)
    }

    fn monitor(&mut self) -> Result<&mut Qmp> {
        self.monitor.as_mut().ok_or_else(|| Error::Lab("QEMU has not opened its monitor".to_owned()))
    }

    /// QEMU's name for the present connection to spinblk.
    fn connection(&self) -> String {
        format!("disk-{}", self.connections)
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

    fn socket(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }
}

fn wait_until(deadline: Instant, complaint: &str) -> Result<()> {
    if Instant::now() >= deadline {
        return Err(Error::Lab(complaint.to_owned()));
    }
    std::thread::sleep(STEP);
    Ok(())
}

fn listen(path: &Path) -> Result<UnixListener> {
    let listener = UnixListener::bind(path).map_err(Error::file("listen on", path))?;
    listener.set_nonblocking(true).map_err(Error::file("listen on", path))?;
    Ok(listener)
}

/// Who has connected, if somebody has.
fn accept(door: &UnixListener) -> Result<Option<UnixStream>> {
    match door.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Error::Lab(format!("cannot accept QEMU's connection: {error}"))),
    }
}
