//! One virtual machine, from its QEMU command line to its end.
//!
//! The guest's stdout, its events and its result files come back through virtio-serial ports that QEMU writes to
//! plain files: nothing has to be drained, and whatever happens to the guest, what it said so far is there.

mod follower;
mod tsc;

use crate::error::{Error, Result};
use crate::process::{Running, command, interrupted, spawn, spawn_on_terminal, words};
use crate::programs::find;
use crate::rig::Rig;
use follower::Follower;
use labvm::protocol::{EVENTS_PORT, Event, FILES_PORT, KERNEL_COMMAND_LINE, LIFE_VARIABLE, QEMU, TSC_WORD};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(50);
const MEMORY_MIB: u32 = 3072;
/// 2 MiB pages for the disks in RAM and the bounce regions: 2 disks of 256 MiB, 2 x 64 MiB, and some air.
const HUGEPAGES: &str = "hugepages=384";

/// How QEMU runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The host's CPU does.
    Kvm,
    /// QEMU translates it.
    Tcg,
}

impl Accel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG (emulation)",
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accel::Tcg => ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"],
        }
    }
}

/// What the guest's stdout is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Console {
    /// A log, copied to the terminal as it grows.
    Live,
    /// A log.
    Silent,
    /// The terminal itself, for a shell.
    Terminal,
}

/// A machine to boot.
pub(crate) struct Machine<'a> {
    pub(crate) accel: Accel,
    pub(crate) vcpus: u32,
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    /// Gets the logs and the result files.
    pub(crate) folder: &'a Path,
    pub(crate) console: Console,
    pub(crate) limit_s: u64,
}

/// How a machine ended.
pub(crate) struct Ending {
    /// What the guest reported.
    pub(crate) events: Vec<Event>,
    /// It was stopped at the host's limit.
    pub(crate) timed_out: bool,
    /// What QEMU and the guest's kernel said, for when the guest died.
    pub(crate) last_words: String,
}

impl Machine<'_> {
    /// Boots it and waits for its end, with hardware of the host or without. After a power cut it boots again.
    pub(crate) fn run(&self, mut rig: Option<&mut Rig>) -> Result<Ending> {
        let deadline = Instant::now() + Duration::from_secs(self.limit_s);
        let mut follower = Follower::new(self.file("output.log"), self.console == Console::Live);
        let mut life = 1;
        loop {
            let mut running = self.start(life, rig.as_deref())?;
            let timed_out = !self.wait(&mut running, rig.as_deref_mut(), &mut follower, deadline)?;
            if timed_out || !rig.as_deref_mut().is_some_and(Rig::power_returns) {
                return Ok(Ending { events: self.events(), timed_out, last_words: self.last_words() });
            }
            life += 1;
        }
    }

    /// Starts QEMU for the machine's life of this number.
    fn start(&self, life: u32, rig: Option<&Rig>) -> Result<Running> {
        let mut qemu = self.command(&find("setpriv")?, life);
        qemu.args(rig.map(|rig| rig.arguments(MEMORY_MIB)).unwrap_or_default());
        let record = self.file("qemu.cmd");
        fs::write(&record, words(&qemu)).map_err(Error::file("write", &record))?;
        let log = self.file("qemu.log");
        let stderr = File::create(&log).map_err(Error::file("create", &log))?;
        qemu.stderr(stderr);
        if self.console == Console::Terminal { spawn_on_terminal(&mut qemu) } else { spawn(&mut qemu) }
    }

    /// Follows the machine's output to its end; false if the deadline came first.
    fn wait(
        &self,
        running: &mut Running,
        mut rig: Option<&mut Rig>,
        follower: &mut Follower,
        deadline: Instant,
    ) -> Result<bool> {
        loop {
            let ended = running.ended().is_some();
            follower.copy();
            if ended {
                return Ok(true);
            }
            if rig.as_mut().is_some_and(|rig| !rig.turn()) {
                running.stop();
                return Ok(true);
            }
            if interrupted() && self.console != Console::Terminal {
                running.stop();
                return Err(Error::Interrupted);
            }
            if Instant::now() >= deadline {
                running.stop();
                follower.copy();
                return Ok(false);
            }
            std::thread::sleep(STEP);
        }
    }

    /// QEMU, started so that it dies with this process whatever happens to it.
    fn command(&self, setpriv: &Path, life: u32) -> Command {
        let mut qemu = command(&setpriv.to_string_lossy(), ["--pdeathsig", "KILL", QEMU]);
        qemu.args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "q35,usb=off,vmport=off,hpet=off",
        ]);
        qemu.args(self.accel.arguments());
        qemu.args(["-smp", &self.vcpus.to_string(), "-m", &MEMORY_MIB.to_string()]);
        qemu.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initrd);
        let clock = match self.accel {
            Accel::Kvm => String::new(),
            Accel::Tcg => format!(" {TSC_WORD}{}", tsc::khz()),
        };
        qemu.args(["-append", &format!("{KERNEL_COMMAND_LINE}{clock} {HUGEPAGES} {LIFE_VARIABLE}={life}")]);
        // What a life says is added to what those before it said.
        let log = |id, name| format!("file,id={id},append=on,path={}", self.file(name).display());
        qemu.args(["-chardev", &log("console", "console.log"), "-serial", "chardev:console"]);
        qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        let output = match self.console {
            Console::Terminal => "stdio,id=output,signal=off".to_owned(),
            _ => log("output", "output.log"),
        };
        qemu.args(["-chardev", &output, "-device", "virtconsole,chardev=output"]);
        for (id, port, file) in [("events", EVENTS_PORT, "events.jsonl"), ("files", FILES_PORT, "files.tar")]
        {
            qemu.args(["-chardev", &log(id, file)]);
            qemu.args(["-device", &format!("virtserialport,chardev={id},name={port}")]);
        }
        qemu
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn events(&self) -> Vec<Event> {
        let text = fs::read_to_string(self.file("events.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn last_words(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read(self.file(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(60)..].join("\n")
        };
        format!("{}\n{}", tail("qemu.log"), tail("console.log")).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_the_command_line() {
        let machine = Machine {
            accel: Accel::Tcg,
            vcpus: 2,
            kernel: Path::new("/k/vmlinux"),
            initrd: Path::new("/i.cpio"),
            folder: Path::new("/out"),
            console: Console::Live,
            limit_s: 60,
        };
        let line = words(&machine.command(Path::new("/usr/bin/setpriv"), 2));
        assert!(line.starts_with("/usr/bin/setpriv --pdeathsig KILL qemu-system-x86_64 -nodefaults"));
        assert!(line.contains("-smp 2 -m 3072 -kernel /k/vmlinux -initrd /i.cpio"));
        assert!(line.contains("file,id=files,append=on,path=/out/files.tar") && line.contains(" LIFE=2 "));
        assert!(line.contains("-cpu max,la57=off") && !line.contains("kvm"));
    }
}
