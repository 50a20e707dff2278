//! systemd as process 1, of a PID namespace in the lab's guest: with mounts of its own, the guest's devices and modules, and
//! Debian's own units for the way up.
//!
//! ```text
//!   init (labvm) ─ scenario ─ unshare ─► systemd (1) ─► spinblk.service
//!                     └─────── nsenter ─► systemctl
//! ```

use crate::command::{Cmd, Job, Output};
use crate::fail::Fail;
use crate::lab::Lab;
use crate::state::text_of;
use crate::wait::{wait_for, wait_some};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What it must find mounted; it takes the rest as it is, as in any container.
const WAY_UP: &str = "mkdir -p /var/tmp /sbin /etc/systemd/system; \
    [ -e /sbin/modprobe ] || ln -s /usr/bin/kmod /sbin/modprobe; \
    [ -e /sys/fs/cgroup/cgroup.procs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup; \
    mount -t tmpfs tmpfs /run; \
    exec env container=lab systemd --system --unit=basic.target --log-target=console --show-status=no";
const START_LIMIT_S: u64 = 60;
const STOP_LIMIT_S: u64 = 10;
/// A unit's own bounds are longer, but not what is run here.
const COMMAND_LIMIT_S: u64 = 100;

/// A running systemd; dropping it kills it, and the kernel what it has started.
pub(crate) struct Systemd {
    namespace: Job,
    /// Its process id outside of the namespace.
    pid: u32,
}

impl Systemd {
    /// Starts it, and waits until it takes commands.
    pub(crate) fn start(lab: &Lab) -> Result<Systemd, Fail> {
        let unshare = Cmd::new("unshare").args(["-m", "-p", "-f", "--mount-proc", "sh", "-ec", WAY_UP]);
        let namespace = unshare.spawn_into(&lab.out_dir().join("systemd.log"))?;
        let children = format!("/proc/{0}/task/{0}/children", namespace.pid());
        let pid = wait_some("a process 1", START_LIMIT_S, || text_of(&children).parse().ok())?;
        let systemd = Systemd { namespace, pid };
        wait_for("systemd to reach its basic.target", START_LIMIT_S, || {
            systemd.ask(&["is-active", "basic.target"]).is_ok_and(|output| output.text.trim() == "active")
        })?;
        Ok(systemd)
    }

    /// Runs systemctl, and asks for success.
    pub(crate) fn control(&self, words: &[&str]) -> Result<(), Fail> {
        self.systemctl(words).run().map(drop)
    }

    /// One property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String, Fail> {
        let text = self.systemctl(&["show", unit, "--value", "--property", name]).run()?;
        Ok(text.trim().to_owned())
    }

    fn ask(&self, words: &[&str]) -> Result<Output, Fail> {
        self.systemctl(words).output()
    }

    fn systemctl(&self, words: &[&str]) -> Cmd {
        let enter = Cmd::new("nsenter").args(["-t", &self.pid.to_string(), "-m", "-p", "systemctl"]);
        enter.args(words.iter().copied()).limit_s(COMMAND_LIMIT_S)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The kernel kills all others of the namespace.
        let _ = kill(Pid::from_raw(i32::try_from(self.pid).unwrap_or(i32::MAX)), Signal::SIGKILL);
        let _ = self.namespace.finish(STOP_LIMIT_S);
    }
}
