//! The demo: a disk of spinblk under fio, with everything that both of them say.

use crate::fail::Fail;
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::spinblk::{Daemon, Disk};
use crate::state::text_of;

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    let seconds = lab.setting("seconds", 5)?;
    lab.load_vduse()?;
    let (mut daemon, device) = Daemon::start_one(lab, Disk::malloc("demo", 256))?;
    for rw in ["randread", "randwrite"] {
        lab.say(&format!("fio: {rw} 4k, 32 deep, {seconds} s"));
        FioJob::new(rw, &device, rw, "4k").depth(32).seconds(seconds).run_aloud()?;
    }
    let before = daemon.text();
    let log = daemon.stop_and_read()?;
    println!("spinblk, at its end:\n{}", log.strip_prefix(&before).unwrap_or(&log));
    say_where(lab, "spinblk's reactor on CPU 1")
}

/// What the figures hold for.
pub(super) fn say_where(lab: &Lab, setup: &str) -> Result<(), Fail> {
    let accel = lab.setting("accel", "an unknown accelerator".to_owned())?;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = text_of("/proc/sys/kernel/osrelease");
    println!("Measured on Linux {kernel} under {accel}, {cpus} CPUs, {setup}.");
    Ok(())
}
