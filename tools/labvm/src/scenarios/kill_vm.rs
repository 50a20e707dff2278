//! The same as `kill`, for a disk of a virtual machine: the `blkio` crate's driver works on it over vhost-vdpa and checks
//! what it reads, while it maps and unmaps memory, which the kernel tells the daemon of, too.

use super::kill::Tally;
use crate::command::{Cmd, Job};
use crate::dice::Dice;
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::spinblk::{Daemon, Disk};
use crate::state::names_in;
use crate::vdpa;
use crate::wait::wait_for;
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
/// How often a daemon is told to end under load.
const STOPS: u64 = 3;
const FREEZE: Duration = Duration::from_secs(20);
/// A client is busy by then.
const UNDER_LOAD: Duration = Duration::from_millis(200);
const ATTACH_LIMIT_S: u64 = 60;

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

/// A daemon that is frozen for long goes on. One that is told to end serves its client until that has let go of the disk, and
/// the next one has all that was written.
pub(super) fn freeze(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["vhost_vdpa"])?;
    let backing = NullBlk::slow_with_memory(lab, "backing", DISK_MIB)?;
    let disk = Disk::aio("d0", backing.path()).set("driver", "vhost-vdpa");
    let mut daemon = Daemon::spawn(lab, &disk)?.wait_until_ready()?;
    for (number, mode) in (1..).zip(["interrupt", "poll"]) {
        let mut client = Client::start(lab, mode, number)?;
        client.wait_until_attached()?;
        sleep(UNDER_LOAD);
        daemon.freeze();
        sleep(FREEZE);
        ensure!(client.is_busy(), "the client of a frozen daemon has ended");
        daemon.thaw();
        client.finish(lab)?;
        lab.say(&format!("{mode}: frozen for {} s", FREEZE.as_secs()));
    }
    for number in 1..=STOPS {
        let mut writing = Client::act(lab, "interrupt", "write", number)?;
        writing.wait_until_attached()?;
        sleep(UNDER_LOAD);
        let is_busy = writing.is_busy();
        let ending = std::thread::spawn(move || daemon.stop());
        let written = writing.finish(lab);
        let ended = ending.join().map_err(|_| Fail::Check("the thread that stops d0 panicked".to_owned()))?;
        written?;
        ended?;
        ensure!(is_busy, "the client had ended before the daemon was told to");
        daemon = Daemon::spawn(lab, &disk)?.wait_until_ready()?;
        Client::act(lab, "poll", "read", number)?.finish(lab)?;
    }
    lab.say(&format!("told to end under load {STOPS} times"));
    daemon.stop().map(drop)
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
        Client::act(lab, mode, &format!("random {REQUESTS}"), number)
    }

    /// One that does something else than random requests.
    fn act(lab: &Lab, mode: &'static str, action: &str, number: u64) -> Result<Client, Fail> {
        let device = vdpa::vhost_device("d0")?;
        let words = Cmd::new("/init").arg("blkio").path(&device).arg(mode).args(action.split(' '));
        let log = format!("client-{mode}-{}-{number}.log", action.split(' ').next().unwrap_or_default());
        let job = words.arg(number.to_string()).spawn_into(&lab.out_dir().join(log))?;
        Ok(Client { job, device, mode, number })
    }

    /// Waits until it has the disk open: from then on the daemon knows of it.
    fn wait_until_attached(&self) -> Result<(), Fail> {
        let open_files = PathBuf::from(format!("/proc/{}/fd", self.job.pid()));
        let is_attached = || {
            let targets = names_in(&open_files).into_iter().map(|fd| std::fs::read_link(open_files.join(fd)));
            targets.flatten().any(|target| target == self.device)
        };
        wait_for("the client to open its disk", ATTACH_LIMIT_S, is_attached)
    }

    fn is_busy(&mut self) -> bool {
        self.job.ended().is_none()
    }

    /// Starts the next one if it has ended, which it may only without an error.
    fn keep_up(&mut self, lab: &Lab) -> Result<(), Fail> {
        if !self.is_busy() {
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
