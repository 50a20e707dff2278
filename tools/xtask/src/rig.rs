//! What surrounds one machine with hardware of the host: that hardware, and the hands that do what a scenario in the
//! guest wishes.
//!
//! ```text
//!   slot      a disk over vhost-user: spinblk on the host, the slot that QEMU puts the disk into
//!     └─ backing   what the disk's data is kept on
//!   drives    drives on image files, for machines that are killed
//! ```

mod backing;
mod drives;
mod slot;

use crate::error::{Error, Result};
use crate::lines::JsonLines;
use crate::qmp::Qmp;
use drives::Images;
use labvm::protocol::{Answer, Hardware, WISHES_PORT, Wish};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use slot::Slot;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

/// What surrounds one machine.
pub(crate) struct Rig {
    hardware: Built,
    /// The sockets' place: a short path, because the kernel allows no long one.
    sockets: TempDir,
    /// QEMU connects to both of these when it starts.
    monitor_door: UnixListener,
    wishes_door: UnixListener,
    monitor: Option<Qmp>,
    wishes: Option<JsonLines>,
    boots: u32,
    /// Reboots and power cuts.
    reboots_left: u32,
    power_is_cut: bool,
    /// The first thing that went wrong outside of a wish, if it is not the machine's end.
    problem: Option<Error>,
    /// There is nothing more to do.
    over: bool,
}

/// The hardware, ready.
enum Built {
    Slot(Box<Slot>),
    Images(Images),
}

impl Rig {
    /// Builds the hardware of a machine that boots so many times; logs go into the folder.
    pub(crate) fn start(spinblk: &Path, hardware: Hardware, boots: u32, folder: &Path) -> Result<Rig> {
        let sockets = tempfile::Builder::new().prefix("spinblk-lab-").tempdir();
        let sockets = sockets.map_err(Error::file("create a folder in", &std::env::temp_dir()))?;
        let (monitor_door, wishes_door) =
            (listen(&sockets.path().join("qmp"))?, listen(&sockets.path().join("wishes"))?);
        let hardware = match hardware {
            Hardware::Disk(disk) => {
                Built::Slot(Box::new(Slot::start(spinblk, disk, sockets.path().join("disk"), folder)?))
            }
            Hardware::Drives(drives) => Built::Images(Images::create(drives, folder)?),
        };
        Ok(Rig {
            hardware,
            sockets,
            monitor_door,
            wishes_door,
            monitor: None,
            wishes: None,
            boots,
            reboots_left: boots.saturating_sub(1),
            power_is_cut: false,
            problem: None,
            over: false,
        })
    }

    /// How often the machine boots, if nothing goes wrong.
    pub(crate) fn boots(&self) -> u32 {
        self.boots
    }

    /// QEMU's arguments: the hardware, the monitor, the port for wishes.
    pub(crate) fn arguments(&self, memory_mib: u32) -> Vec<String> {
        let mut arguments = match &self.hardware {
            Built::Slot(slot) => slot.arguments(memory_mib),
            Built::Images(images) => images.arguments(),
        };
        let socket = |id: &str, name: &str| format!("socket,id={id},path={}", self.place(name).display());
        let words = [
            "-chardev",
            &socket("monitor", "qmp"),
            "-mon",
            "chardev=monitor,mode=control",
            "-chardev",
            &socket("wishes", "wishes"),
            "-device",
            &format!("virtserialport,chardev=wishes,name={WISHES_PORT}"),
            "-pidfile",
            &self.place("pid").display().to_string(),
        ];
        arguments.extend(words.map(str::to_owned));
        arguments
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
        match &mut self.hardware {
            Built::Slot(slot) => slot.is_alive(),
            Built::Images(_) => true,
        }
    }

    /// Whether the machine, which has ended, is to be started once more, because its power was cut.
    pub(crate) fn power_returns(&mut self) -> bool {
        (self.monitor, self.wishes, self.over) = (None, None, self.problem.is_some());
        std::mem::take(&mut self.power_is_cut)
    }

    /// Takes the hardware down, asks whether all went well, and says it in a line. The machine has ended, after as
    /// many boots as given.
    pub(crate) fn finish(self, boots: usize) -> Result<String> {
        let (problem, planned) = (self.problem, self.boots);
        let done = match self.hardware {
            Built::Slot(slot) => slot.finish(),
            Built::Images(_) => Ok("drives on image files".to_owned()),
        };
        let done = match (done, problem) {
            (Err(error), Some(problem)) => {
                return Err(Error::Lab(format!("{error}\nand before that: {problem}")));
            }
            (done, _) => done?,
        };
        if u32::try_from(boots) != Ok(planned) {
            return Err(Error::Lab(format!("boots of the machine: {boots}, planned: {planned}")));
        }
        Ok(format!("{done}; boots: {boots}"))
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
            if self.power_is_cut {
                // There is nobody to hear it.
                self.over = true;
                return Ok(());
            }
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
        let wish =
            serde_json::from_value(wish.clone()).map_err(|source| Error::Json { what: what(), source })?;
        match (wish, &mut self.hardware) {
            (Wish::RebootAtReset | Wish::CutPower, _) if self.reboots_left == 0 => {
                Err(Error::Lab("this machine has been rebooted as often as planned".to_owned()))
            }
            (Wish::RebootAtReset, _) => {
                self.reboots_left -= 1;
                connected(&mut self.monitor)?.execute("set-action", &json!({"reboot": "reset"}))
            }
            (Wish::EndAtReset, _) => {
                connected(&mut self.monitor)?.execute("set-action", &json!({"reboot": "shutdown"}))
            }
            (Wish::Unplug, Built::Slot(slot)) => slot.unplug(connected(&mut self.monitor)?),
            (Wish::Plug, Built::Slot(slot)) => slot.plug(connected(&mut self.monitor)?),
            (Wish::Restart, Built::Slot(slot)) => slot.restart(),
            (Wish::Kill, Built::Slot(slot)) => slot.kill(),
            (Wish::KillTwice { after_ms }, Built::Slot(slot)) => slot.kill_twice(after_ms),
            (Wish::Freeze, Built::Slot(slot)) => slot.freeze(true),
            (Wish::Thaw, Built::Slot(slot)) => slot.freeze(false),
            (Wish::Grow { size_mib }, Built::Slot(slot)) => slot.grow(size_mib),
            (Wish::CutPower, Built::Images(_)) => self.cut_power(),
            (wish, _) => Err(Error::Lab(format!("this machine's hardware knows no {wish:?}"))),
        }
    }

    /// Kills QEMU, which has no time to do anything about it.
    fn cut_power(&mut self) -> Result<()> {
        let path = self.place("pid");
        let text = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let unusable =
            || Error::Lab(format!("QEMU's process cannot be killed: {} holds {text}", path.display()));
        let pid = text.trim().parse().map_err(|_| unusable())?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|_| unusable())?;
        self.reboots_left -= 1;
        self.power_is_cut = true;
        Ok(())
    }

    fn place(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }
}

fn connected(monitor: &mut Option<Qmp>) -> Result<&mut Qmp> {
    monitor.as_mut().ok_or_else(|| Error::Lab("QEMU has not opened its monitor".to_owned()))
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
