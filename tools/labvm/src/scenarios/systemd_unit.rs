//! The unit file under systemd itself: it starts and is ready when its disk is there, is fed its watchdog, comes back after a
//! kill and after a hang, and stops cleanly, while fio verifies what it has written.

use super::kill::Load;
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::state::leftovers;
use crate::systemd::Systemd;
use crate::vdpa;
use crate::wait::wait_for;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// The unit that is given to users.
const UNIT: &str = include_str!("../../../../deploy/spinblk.service");
const NAME: &str = "spinblk.service";
const UNITS: &str = "/etc/systemd/system";
const CONFIG: &str = "/etc/spinblk/spinblk.toml";
/// Less than the unit has, which would take long, and enough for a busy emulation.
const WATCHDOG_S: u64 = 5;
const PERIODS: u64 = 3;
/// As much as the load wants.
const DISK_MIB: u64 = 96;
const RETURN_LIMIT_S: u64 = 60;

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    let backing = NullBlk::slow_with_memory(lab, "backing", DISK_MIB)?;
    // The unit itself asks for the modules of VDUSE; this one comes by itself where there is udev.
    lab.modprobe(&["virtio_blk"])?;
    write_files(lab, backing.path())?;
    let systemd = Systemd::start(lab)?;
    lab.say("systemd runs as process 1 of a namespace");

    // Returns when the service has said that it is ready.
    systemd.control(&["start", NAME])?;
    expect(&systemd, &[("ActiveState", "active"), ("SubState", "running"), ("NRestarts", "0")])?;
    let device = vdpa::find_block("d0");
    let device = device.ok_or_else(|| Fail::Check("READY was said before the disk was there".to_owned()))?;
    lab.say(&format!("the service is ready, {} is there", device.display()));

    let mut load = Load::start(&device, 1)?;
    for _ in 0..WATCHDOG_S * PERIODS {
        load.keep_up(&device)?;
        sleep(Duration::from_secs(1));
    }
    expect(&systemd, &[("ActiveState", "active"), ("NRestarts", "0")])?;
    lab.say(&format!("the watchdog of {WATCHDOG_S} s was fed for {PERIODS} periods"));

    for signal in ["KILL", "STOP"] {
        load.keep_up(&device)?;
        let before = restarts(&systemd)?;
        systemd.control(&["kill", "--signal", signal, "--kill-whom=main", NAME])?;
        // One start may fail because the storage still has I/O of the process that died, and be tried again.
        let is_back = || restarts(&systemd).is_ok_and(|count| count > before);
        wait_for("systemd to start the service again", RETURN_LIMIT_S, is_back)?;
        let is_ready = || systemd.property(NAME, "ActiveState").is_ok_and(|state| state == "active");
        wait_for("the service to be ready again", RETURN_LIMIT_S, is_ready)?;
        lab.say(&format!("SIG{signal}: systemd has started the service again"));
    }
    // Whatever fio had on its way is done, and what it wrote is what it reads.
    load.finish()?;
    lab.say("fio found no error and no wrong byte");

    systemd.control(&["stop", NAME])?;
    expect(&systemd, &[("ActiveState", "inactive"), ("Result", "success")])?;
    let left = leftovers();
    ensure!(left.is_none(), "after the service's end: {}", left.unwrap_or_default());
    lab.say("stopped, nothing left");
    Ok(())
}

/// How often systemd has started the service again.
fn restarts(systemd: &Systemd) -> Result<u32, Fail> {
    let count = systemd.property(NAME, "NRestarts")?;
    count.parse().map_err(|_| Fail::Check(format!("{NAME} has NRestarts={count}, which is no number")))
}

/// Asks that the unit has these properties.
fn expect(systemd: &Systemd, properties: &[(&str, &str)]) -> Result<(), Fail> {
    properties.iter().try_for_each(|(name, wanted)| {
        let value = systemd.property(NAME, name)?;
        ensure!(value == *wanted, "{NAME} has {name}={value}, not {wanted}");
        Ok(())
    })
}

/// The unit as it is given to users, a configuration with one disk, and what this place needs besides.
fn write_files(lab: &Lab, backing: &Path) -> Result<(), Fail> {
    let log = lab.out_dir().join("spinblk.log");
    let drop_in = format!(
        "[Service]\nWatchdogSec={WATCHDOG_S}\nStandardOutput=append:{0}\nStandardError=append:{0}\n",
        log.display()
    );
    let config = format!(
        "[reactor]\ncores = [1]\n\n[[disk]]\nname = \"d0\"\ntype = \"aio\"\npath = \"{}\"\nqueues = 2\n",
        backing.display()
    );
    write(&Path::new(UNITS).join(NAME), UNIT)?;
    write(&Path::new(UNITS).join(format!("{NAME}.d/lab.conf")), &drop_in)?;
    write(Path::new(CONFIG), &config)
}

fn write(path: &Path, text: &str) -> Result<(), Fail> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Fail::file("create", folder))?;
    }
    std::fs::write(path, text).map_err(Fail::file("write", path))
}
