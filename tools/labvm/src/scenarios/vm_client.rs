//! Disks for virtual machines, over vhost-vdpa, with the `blkio` crate's driver in the machine's place.

use crate::block::DirectDisk;
use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::pattern::Pattern;
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;

const DISK_MIB: u64 = 64;
const REQUESTS: u64 = 10_000;
const CLIENT_LIMIT_S: u64 = 150;

/// Has the client do something; gives what it says.
fn client(mode: &str, action: &[&str]) -> Result<String, Fail> {
    let device = vdpa::vhost_device("d0")?;
    let words = Cmd::new("/init").arg("blkio").path(&device).arg(mode);
    let text = words.args(action.iter().copied()).limit_s(CLIENT_LIMIT_S).run()?;
    Ok(text.trim().to_owned())
}

/// Random requests of both kinds of clients, those that poll and those that wait, while memory comes and goes.
pub(super) fn random(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["vhost_vdpa"])?;
    let disk = Disk::malloc("d0", DISK_MIB).set("driver", "vhost-vdpa");
    let daemon = Daemon::start(lab, "1", &[disk])?;
    let requests = REQUESTS.to_string();
    for (mode, seed) in [("interrupt", "1"), ("poll", "2")] {
        let said = client(mode, &["random", &requests, seed])?;
        lab.say(&format!("{mode}: {said}"));
    }
    let report = daemon.stop()?;
    let disk = report.disk("d0")?;
    // Besides, they flush and write zeroes.
    let (counted, least) = (disk.data_ios(), 2 * REQUESTS * 8 / 10);
    ensure!(counted >= least, "spinblk counts {counted} reads and writes, the clients made {least} at least");
    let taken: Vec<u64> = disk.queues.iter().map(|queue| queue.requests).collect();
    ensure!(taken.iter().all(|requests| *requests > REQUESTS / 2), "requests of each queue: {taken:?}");
    Ok(())
}

/// One disk goes from a container to a virtual machine and back, with its data.
pub(super) fn rebind(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["vhost_vdpa"])?;
    let (daemon, block) = Daemon::start_one(lab, Disk::malloc("d0", DISK_MIB))?;
    let disk = DirectDisk::open(&block)?;
    Pattern(1).write(&disk, 0..DISK_MIB << 20)?;
    drop(disk);
    for number in [1u64, 2] {
        vdpa::rebind("d0", "vhost_vdpa")?;
        let said = client("interrupt", &["read", &number.to_string()])?;
        lab.say(&format!("a machine's driver finds what was written before: {said}"));
        client("poll", &["write", &(number + 1).to_string()])?;
        vdpa::rebind("d0", "virtio_vdpa")?;
        let disk = DirectDisk::open(&vdpa::block_device("d0")?)?;
        Pattern(number + 1).expect(&disk, 0..DISK_MIB << 20)?;
        lab.say("and a container's what that wrote");
    }
    daemon.stop().map(drop)
}
