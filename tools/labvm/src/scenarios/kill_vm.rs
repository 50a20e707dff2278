//! The same as `kill`, for a disk of a virtual machine: the `blkio` crate's driver works on it over vhost-vdpa and checks
//! what it reads, while it maps and unmaps memory, which the kernel tells the daemon of, too.

use super::kill::{Dice, Tally};
use crate::command::{Cmd, Job};
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;
use std::ops::Range;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// With a client that waits for interrupts, and again with one that polls.
const CYCLES: u32 = 10;
const DISK_MIB: u64 = 64;
/// Of one client; when it has made them it reads the whole disk, and the next one comes.
const REQUESTS: u64 = 6000;
const WORK_MS: Range<u64> = 20..1500;
const START_MS: Range<u64> = 0..300;
const CLIENT_LIMIT_S: u64 = 200;

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["vhost_vdpa"])?;
    let (cycles, seed) = (lab.setting("cycles", CYCLES)?, lab.setting("seed", 1)?);
    let backing = NullBlk::slow_with_memory(lab, "backing", DISK_MIB)?;
    let disk = Disk::aio("d0", backing.path()).set("driver", "vhost-vdpa");
    let (mut dice, mut tally) = (Dice(seed), Tally::default());
    let mut daemon = Daemon::spawn(lab, &disk)?.wait_until_ready()?;
    for mode in ["interrupt", "poll"] {
        let mut client = Client::start(lab, mode, seed)?;
        for cycle in 1..=cycles {
            client.keep_up(lab)?;
            sleep(Duration::from_millis(dice.within(WORK_MS)));
            // Some die again while they start, once or twice.
            let more = dice.within(0..8).saturating_sub(5);
            for _ in 0..more {
                daemon = killed(lab, daemon, &disk, &mut tally)?;
                sleep(Duration::from_millis(dice.within(START_MS)));
            }
            daemon = killed(lab, daemon, &disk, &mut tally)?.wait_until_ready()?;
            lab.say(&format!("{mode}, cycle {cycle}: killed {} times", more + 1));
        }
        let clients = client.number - seed + 1;
        client.finish(lab)?;
        lab.say(&format!("{mode}: {clients} clients found every byte as they wrote it"));
    }
    tally.count_resumed(&daemon.text());
    daemon.stop()?;
    tally.tell(lab, 2 * cycles)
}

/// Kills a daemon; gives the next one, which may not be ready yet.
fn killed(lab: &Lab, mut daemon: Daemon, disk: &Disk, tally: &mut Tally) -> Result<Daemon, Fail> {
    tally.count_resumed(&daemon.text());
    daemon.kill()?;
    Daemon::spawn(lab, disk)
}

/// A driver with random requests, one after the other.
struct Client {
    job: Job,
    device: PathBuf,
    mode: &'static str,
    number: u64,
}

impl Client {
    fn start(lab: &Lab, mode: &'static str, number: u64) -> Result<Client, Fail> {
        let device = vdpa::vhost_device("d0")?;
        let words = Cmd::new("/init").arg("blkio").path(&device).args([mode, "random"]);
        let words = words.args([REQUESTS.to_string(), number.to_string()]);
        let job = words.spawn_into(&lab.out_dir().join(format!("client-{mode}-{number}.log")))?;
        Ok(Client { job, device, mode, number })
    }

    /// Starts the next one if it has ended, which it may only without an error.
    fn keep_up(&mut self, lab: &Lab) -> Result<(), Fail> {
        if self.job.ended().is_some() {
            let next = Client::start(lab, self.mode, self.number + 1)?;
            std::mem::replace(self, next).finish(lab)?;
        }
        Ok(())
    }

    fn finish(mut self, lab: &Lab) -> Result<(), Fail> {
        let output = self.job.finish(CLIENT_LIMIT_S)?;
        let (said, device) = (output.text.trim(), self.device.display());
        ensure!(output.status.success(), "the client of {device} ended with {}: {said}", output.status);
        lab.say(&format!("client {}: {said}", self.number));
        Ok(())
    }
}
