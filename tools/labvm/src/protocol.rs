//! What the host and the guest tell each other: the plan (a file in the initramfs), the events and the wishes (JSON
//! lines on virtio-serial ports).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the plan lies in the guest.
pub const PLAN_PATH: &str = "/lab/plan.json";
/// The port on which the guest writes one [`Event`] per line.
pub const EVENTS_PORT: &str = "lab.events";
/// The port on which the guest writes, last of all, a tar of the result files.
pub const FILES_PORT: &str = "lab.files";
/// The port on which a scenario asks the host for one [`Wish`] per line, and gets an [`Answer`] to each. Only machines
/// with [`Hardware`] of their own have it.
pub const WISHES_PORT: &str = "lab.wishes";
/// The serial number by which the guest knows a [`HostDisk`].
pub const HOST_DISK_SERIAL: &str = "HOST-DISK";
/// What the serial numbers of a machine's [`Drives`] begin with; their number follows.
pub const DRIVE_SERIAL: &str = "DRIVE-";
/// The environment variable with the number of the machine's life: 1 at first, one more after each power cut.
pub const LIFE_VARIABLE: &str = "LIFE";
/// The test of the block devices' contract, as a program in the guest.
pub const CONFORMANCE: &str = "bdev-conformance";
/// The emulator, as a program in the guest.
pub const QEMU: &str = "qemu-system-x86_64";
/// Where its kernel lies, for a machine that the guest boots itself.
pub const KERNEL_PATH: &str = "/lab/vmlinux";
/// PVH boot of a kernel for emulation: no self tests of crypto that nobody uses, no mitigations, a reboot (that
/// is, the end of QEMU) instead of a hang after a panic. What the kernel does not know becomes init's environment.
pub const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=-1 oops=panic mitigations=off nokaslr tsc=reliable \
    random.trust_cpu=on quiet loglevel=5 initcall_blacklist=crypto_kdf108_init,jent_mod_init \
    PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root";
/// The kernel's word for how fast the time stamp counter runs, which an emulated machine does not find out by itself.
pub const TSC_WORD: &str = "tsc_early_khz=";
/// How long before the host's limit the guest gives up by itself, to bring its results home.
pub const GUEST_MARGIN_S: u64 = 20;

/// What the guest is booted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Says that it runs, and ends: does this accelerator work?
    Probe,
    /// Runs the planned scenarios.
    Run,
    /// Gives a shell on the console.
    Shell,
}

/// All that one boot is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// What the guest is booted for.
    pub mode: Mode,
    /// The scenarios to run, in this order.
    pub scenarios: Vec<Planned>,
    /// The guest ends by itself after this many seconds.
    pub limit_s: u64,
    /// Free-form values for scenarios, such as `repeats`.
    pub settings: BTreeMap<String, String>,
}

/// One scenario of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Its name in the table of scenarios.
    pub name: String,
    /// It is stopped after this many seconds.
    pub bound_s: u64,
}

/// What the host gives to a machine for one scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hardware {
    /// A disk that spinblk serves on the host.
    Disk(HostDisk),
    /// Drives that outlive the machine.
    Drives(Drives),
}

/// A disk of the machine that spinblk serves on the host, over vhost-user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDisk {
    /// Its size.
    pub size_mib: u64,
    /// Its virtqueues.
    pub queues: u16,
    /// Whether the machine offers packed virtqueues to its guest.
    pub packed: bool,
    /// What holds its data.
    pub backing: Backing,
}

/// What holds the data of a [`HostDisk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// The daemon's memory.
    Malloc,
    /// A file of its size.
    File,
    /// Two files of half the disk's size, striped, and encrypted above that.
    Files,
}

/// Drives of the machine on image files of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drives {
    /// How many.
    pub count: usize,
    /// The size of each.
    pub size_mib: u64,
}

/// What only the host can do to a running machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// From now on, a reset boots the machine again. It may be several resets in a row: the firmware makes its own.
    RebootAtReset,
    /// From now on, a reset is the machine's end, as it is at first.
    EndAtReset,
    /// Takes the host's disk out of its slot, and the connection behind it down.
    Unplug,
    /// Puts it in again, over a new connection.
    Plug,
    /// Ends the daemon behind the host's disk as a user would, and starts another one. If the disk is in its slot, the machine
    /// finds that by itself.
    Restart,
    /// Kills the daemon behind the host's disk, whatever it is doing, and starts another one, which the machine finds by
    /// itself.
    Kill,
    /// The same, and kills the other one as well, so long after its start, so that it is a third that the machine finds.
    KillTwice {
        /// How long the second one lives.
        after_ms: u64,
    },
    /// Stops the daemon behind the host's disk where it is.
    Freeze,
    /// Lets it go on.
    Thaw,
    /// Makes the host's disk larger while the machine works on it.
    Grow {
        /// Its new size.
        size_mib: u64,
    },
    /// Kills the machine at once, whatever it is doing, and boots it again with the same drives. There is no answer.
    CutPower,
}

/// Done, or why it cannot be.
pub type Answer = Result<(), String>;

/// What happened in the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Init runs; the seconds since the kernel started.
    Booted {
        /// Seconds of uptime.
        uptime_s: f64,
    },
    /// A scenario starts.
    Started {
        /// Which one.
        name: String,
    },
    /// A scenario ended.
    Finished {
        /// Which one.
        name: String,
        /// How it ended.
        outcome: Outcome,
        /// How long it ran.
        seconds: f64,
        /// Why it failed, empty when it passed.
        message: String,
    },
    /// The kernel side is not clean any more; scenarios that have not started need a fresh boot.
    Dirty {
        /// What was left behind.
        reason: String,
    },
    /// Nothing more will come but the tar.
    Done,
}

/// How a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every check held.
    Passed,
    /// A check failed, or the kernel complained.
    Failed,
    /// It was stopped at its bound.
    TimedOut,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_json_line_each() {
        let event = Event::Finished {
            name: "smoke".into(),
            outcome: Outcome::TimedOut,
            seconds: 1.5,
            message: "two\nlines".into(),
        };
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert!(line.contains(r#""event":"finished""#) && line.contains(r#""outcome":"timed-out""#));
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }

    #[test]
    fn wishes_and_answers_are_one_json_line_each() {
        assert_eq!(serde_json::to_string(&Wish::Unplug).unwrap(), r#""unplug""#);
        let answers = [Ok(()), Err("two\nlines".to_owned())];
        for answer in answers {
            let line = serde_json::to_string(&answer).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
        }
    }
}
