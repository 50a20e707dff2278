//! What makes the data plane what it is: bounce pages used directly, silence when idle, errors that stay alone.

use crate::block::DirectDisk;
use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::spinblk::{Daemon, Disk};
use crate::state::{names_in, text_of};
use crate::wait::wait_some;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::Duration;

/// Bounce pages are our memory, and the ring reads and writes them with registered buffers.
pub(super) fn umem(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", 64)?;
    let (daemon, device) = Daemon::start_one(lab, Disk::aio("d0", backing.path()))?;
    FioJob::new("mixed", &device, "randrw", "4k").depth(32).seconds(4).run(lab)?;
    let report = daemon.stop()?;
    let disk = report.disk("d0")?;
    let (fixed, all) = (disk.fixed_buffer_ios, disk.data_ios());
    ensure!(disk.umem, "spinblk reports that no umem is registered");
    ensure!(fixed * 2 > all, "only {fixed} of {all} requests used registered buffers");
    lab.say(&format!("{fixed} of {all} requests used registered buffers"));
    Ok(())
}

/// A reactor with nothing to do makes no system call.
pub(super) fn idle(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (daemon, _) = Daemon::start_one(lab, Disk::malloc("d0", 64))?;
    // The probe's reads are over when the kernel stops asking.
    sleep(Duration::from_secs(2));
    let pid = daemon.pid();
    let reactor = wait_some("a thread of spinblk pinned to CPU 1", 5, || pinned_thread(pid, "1"))?;
    let trace = lab.out_dir().join("strace.txt");
    let mut strace = Cmd::new("strace").args(["-p", &reactor, "-o"]).path(&trace).spawn()?;
    sleep(Duration::from_secs(3));
    ensure!(strace.ended().is_none(), "strace could not watch thread {reactor}: {}", strace.text());
    strace.signal(Signal::SIGINT);
    strace.finish(10)?;
    let text = std::fs::read_to_string(&trace).map_err(Fail::file("read", &trace))?;
    let calls = text.lines().filter(|line| line.contains('(')).count();
    ensure!(calls == 0, "an idle reactor made {calls} system calls in 3 s:\n{}", crate::command::tail(&text));
    lab.say("no system call in 3 s");
    daemon.stop().map(drop)
}

fn pinned_thread(pid: u32, cpu: &str) -> Option<String> {
    names_in(format!("/proc/{pid}/task")).into_iter().find(|task| {
        let status = text_of(format!("/proc/{pid}/task/{task}/status"));
        status
            .lines()
            .any(|line| line.strip_prefix("Cpus_allowed_list:").is_some_and(|list| list.trim() == cpu))
    })
}

/// Requests to a bad sector fail; all others, before, meanwhile and after, do not.
pub(super) fn bad_sector(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", 64)?;
    let (daemon, device) = Daemon::start_one(lab, Disk::aio("d0", backing.path()))?;
    let direct = DirectDisk::open(&device)?;
    direct.fill(0, 1 << 20, 0x5a)?;
    backing.spoil(1024, 1031)?;
    let neighbours = FioJob::new("meanwhile", &device, "randwrite", "4k").depth(16).set("offset", "8M");
    let mut fio = neighbours.set("size", "16M").verify().start()?;
    for _ in 0..50 {
        ensure!(!direct.can_read(1024 * 512), "the bad sector 1024 of {} could be read", device.display());
    }
    let result = fio.finish()?;
    ensure!(result.error == 0, "fio, on good sectors only, reports error {}", result.error);
    direct.expect(0, 1024 * 512, 0x5a)?;
    direct.expect(1032 * 512, 4096, 0x5a)?;
    drop(direct);
    daemon.stop().map(drop)
}
