//! `kill -9` of the daemon under load, at any moment: the next one goes on, and nobody who uses the disk notices more than
//! a pause.
//!
//! ```text
//!   fio (verifies) ═══════════════════╪═══ waits ═══════════════╪═══════════════════
//!   daemon         ready ── random ── kill ── start ── [kill ── start] ── first I/O ── ready
//! ```

use crate::block::DirectDisk;
use crate::dice::Dice;
use crate::fail::{Fail, ensure};
use crate::fio::{FioJob, RunningFio};
use crate::lab::Lab;
use crate::null_blk::NullBlk;
use crate::pattern::Pattern;
use crate::spinblk::{Daemon, Disk};
use crate::state::text_of;
use crate::vdpa;
use crate::wait::wait_for;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Also with packed rings. Half of the kills or more find no request in the log, so a few of them would show nothing.
const CYCLES: u32 = 20;
/// Starts that are killed with nothing there before them.
const FRESH_STARTS: u32 = 4;
const JOBS: u32 = 2;
const PART_MIB: u32 = 40;
const DISK_MIB: u64 = 96;
/// Behind what fio uses: written before the first kill.
const KEPT: Range<u64> = 80 << 20..96 << 20;
const PATTERN: Pattern = Pattern(7);
/// How long the disk works between two kills, at least and at most.
const WORK_MS: Range<u64> = 20..1500;
const LOAD_LIMIT_S: u64 = 60;
const FIRST_IO_LIMIT_S: u64 = 60;
const FREEZE: Duration = Duration::from_secs(20);

pub(super) fn split(lab: &mut Lab) -> Result<(), Fail> {
    run(lab, false)
}

pub(super) fn packed(lab: &mut Lab) -> Result<(), Fail> {
    run(lab, true)
}

fn run(lab: &Lab, packed: bool) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (cycles, seed) = (lab.setting("cycles", CYCLES)?, lab.setting("seed", 1)?);
    lab.say(&format!("{cycles} cycles, seed {seed}"));
    let backing = NullBlk::slow_with_memory(lab, "backing", DISK_MIB)?;
    let disk = Disk::aio("d0", backing.path()).set("packed", packed);
    let mut dice = Dice(seed);
    let start_ms = kill_fresh_starts(lab, &disk, &mut dice)?;

    let (daemon, device) = Daemon::start_one(lab, disk.clone())?;
    PATTERN.write(&DirectDisk::open(&device)?, KEPT)?;
    let mut victim = Victim { lab, disk, device, daemon, dice, start_ms, tally: Tally::default() };
    let mut load = Load::start(&victim.device, 1)?;
    for cycle in 1..=cycles {
        load.keep_up(&victim.device)?;
        sleep(Duration::from_millis(victim.dice.within(WORK_MS)));
        // Some die again while they start, once or twice.
        let more = victim.dice.within(0..8).saturating_sub(5);
        victim = victim.die(more)?;
        lab.say(&format!("cycle {cycle}: {}", victim.tally.last));
    }
    load.finish()?;
    victim = victim.die(0)?;
    let Victim { daemon, device, tally, .. } = victim;
    load.job.set("verify_only", 1).run(lab)?;
    PATTERN.expect(&DirectDisk::open(&device)?, KEPT)?;
    let daemon = unanswered_message(lab, daemon, &Disk::aio("d0", backing.path()).set("packed", packed))?;
    PATTERN.expect(&DirectDisk::open(&vdpa::block_device("d0")?)?, KEPT)?;
    daemon.stop()?;
    tally.tell(lab, cycles)
}

/// Kills daemons in their first moments, when the disk is half there at most; each is followed by one that is killed, too, and
/// by one that has to be ready. Gives the time that the longest start took.
fn kill_fresh_starts(lab: &Lab, disk: &Disk, dice: &mut Dice) -> Result<u64, Fail> {
    let mut start_ms = 0;
    for round in 0..=FRESH_STARTS {
        if round > 0 {
            for _ in 0..2 {
                let daemon = Daemon::spawn(lab, disk)?;
                sleep(Duration::from_millis(dice.within(0..start_ms)));
                daemon.kill()?;
            }
        }
        let started = Instant::now();
        let (daemon, device) = Daemon::start_one(lab, disk.clone())?;
        start_ms = start_ms.max(started.elapsed().as_millis() as u64);
        FioJob::new("touch", &device, "randrw", "4k")
            .depth(8)
            .set("number_ios", 64)
            .set("size", "16M")
            .run(lab)?;
        daemon.stop()?;
    }
    lab.say(&format!("{} killed starts; a whole one takes {start_ms} ms", 2 * FRESH_STARTS));
    Ok(start_ms)
}

/// The driver lets go of the disk while nobody serves it; whoever serves it next answers.
fn unanswered_message(lab: &Lab, daemon: Daemon, disk: &Disk) -> Result<Daemon, Fail> {
    daemon.kill()?;
    let mut unbind = vdpa::start_unbind("d0")?;
    sleep(Duration::from_secs(2));
    ensure!(unbind.ended().is_none(), "the driver let go of d0 with nobody to answer it");
    let daemon = Daemon::spawn(lab, disk)?;
    let output = unbind.finish(LOAD_LIMIT_S)?;
    ensure!(output.status.success(), "taking d0 from its driver ended with {}", output.status);
    let daemon = daemon.wait_until_ready()?;
    lab.say("a message that waited was answered by the next daemon");
    Ok(daemon)
}

/// The daemon that is killed, and what is noted of that.
struct Victim<'a> {
    lab: &'a Lab,
    disk: Disk,
    device: PathBuf,
    daemon: Daemon,
    dice: Dice,
    /// How long a start takes.
    start_ms: u64,
    tally: Tally,
}

impl Victim<'_> {
    /// Kills the daemon, and so many of its successors while they start; waits for the one after those.
    fn die(mut self, more: u64) -> Result<Self, Fail> {
        let killed = Instant::now();
        self.tally.count_resumed(&self.daemon.text());
        self.daemon.kill()?;
        let (done, in_flight) = block_counters(&self.device);
        for _ in 0..more {
            let mut daemon = Daemon::spawn(self.lab, &self.disk)?;
            sleep(Duration::from_millis(self.dice.within(0..self.start_ms)));
            self.tally.count_resumed(&daemon.text());
            daemon.kill()?;
        }
        let daemon = Daemon::spawn(self.lab, &self.disk)?;
        let mut waited = "nobody waited".to_owned();
        if in_flight > 0 {
            let served = || block_counters(&self.device).0 > done;
            wait_for("the first I/O of the next daemon", FIRST_IO_LIMIT_S, served)?;
            let ms = killed.elapsed().as_millis() as u64;
            self.tally.first_io_ms.push(ms);
            waited = format!("first I/O after {ms} ms");
        }
        self.daemon = daemon.wait_until_ready()?;
        ensure!(self.device.exists(), "{} went away with the daemon", self.device.display());
        self.tally.last = format!("{in_flight} in flight, {more} more killed while starting, {waited}");
        Ok(self)
    }
}

/// I/Os that the block device has done, and those that it is doing.
pub(super) fn block_counters(device: &Path) -> (u64, u64) {
    let name = device.file_name().unwrap_or_default();
    let text = text_of(Path::new("/sys/class/block").join(name).join("stat"));
    let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or(0);
    (field(0) + field(4), field(8))
}

/// fio, again and again, on the first 80 MiB of a disk.
pub(super) struct Load {
    fio: RunningFio,
    job: FioJob,
    number: u32,
    /// Adds what is wanted of each job besides.
    more: fn(FioJob) -> FioJob,
}

impl Load {
    pub(super) fn start(device: &Path, number: u32) -> Result<Load, Fail> {
        Load::start_with(device, number, |job| job)
    }

    pub(super) fn start_with(device: &Path, number: u32, more: fn(FioJob) -> FioJob) -> Result<Load, Fail> {
        let job = FioJob::new(&format!("load-{number}"), device, "randwrite", "4k-64k");
        let job = more(job.depth(32).jobs(JOBS, PART_MIB).verify().set("randseed", number));
        Ok(Load { fio: job.start()?, job, number, more })
    }

    /// Waits for its end, which must be a good one; gives the number of jobs that there were.
    pub(super) fn finish(&mut self) -> Result<u32, Fail> {
        self.fio.finish()?;
        Ok(self.number)
    }

    /// Waits until it loads the disk; starts it anew if it has ended, which it may only without an error.
    pub(super) fn keep_up(&mut self, device: &Path) -> Result<(), Fail> {
        loop {
            let fio = &mut self.fio;
            let loads = || fio.has_ended() || block_counters(device).1 > 0;
            wait_for("fio to load the disk", LOAD_LIMIT_S, loads)?;
            if !self.fio.has_ended() {
                return Ok(());
            }
            self.fio.finish()?;
            *self = Load::start_with(device, self.number + 1, self.more)?;
        }
    }
}

/// What the kills came to.
#[derive(Default)]
pub(super) struct Tally {
    last: String,
    resumed: u64,
    first_io_ms: Vec<u64>,
}

impl Tally {
    /// Adds the requests that a daemon says it does again.
    pub(super) fn count_resumed(&mut self, text: &str) {
        let numbers = text.lines().filter_map(|line| line.split_once(" requests were in flight"));
        let counts = numbers.filter_map(|(before, _)| before.rsplit(' ').next()?.parse::<u64>().ok());
        self.resumed += counts.sum::<u64>();
    }

    /// Without a request that was done again, nothing was shown.
    pub(super) fn tell(mut self, lab: &Lab, cycles: u32) -> Result<(), Fail> {
        self.first_io_ms.sort_unstable();
        let first_io = match self.first_io_ms.as_slice() {
            [] => String::new(),
            [.., max] => {
                let median = self.first_io_ms[self.first_io_ms.len() / 2];
                format!(", from kill to first I/O {median} ms (median), {max} ms (max)")
            }
        };
        lab.say(&format!("{cycles} cycles, {} requests done again{first_io}", self.resumed));
        ensure!(self.resumed > 0, "no request was in flight at any of {cycles} kills");
        Ok(())
    }
}

/// A daemon that is frozen for long, and one that is stopped and started, lose nothing either.
pub(super) fn freeze(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let backing = NullBlk::with_memory(lab, "backing", DISK_MIB)?;
    let disk = || Disk::aio("d0", backing.path());
    let (daemon, device) = Daemon::start_one(lab, disk())?;
    let timeout = text_of("/sys/class/vduse/d0/msg_timeout");
    ensure!(timeout == "0", "the kernel gives d0 up after {timeout} s without an answer");
    PATTERN.write(&DirectDisk::open(&device)?, KEPT)?;
    let mut load = Load::start(&device, 1)?;
    load.keep_up(&device)?;
    daemon.freeze();
    sleep(Duration::from_secs(1));
    let (done, _) = block_counters(&device);
    sleep(FREEZE);
    let (later, in_flight) = block_counters(&device);
    ensure!(in_flight > 0 && later == done, "d0 was served by a frozen daemon: {done}, then {later} I/Os");
    daemon.thaw();
    load.finish()?;
    daemon.stop()?;
    ensure!(!device.exists(), "{} outlives a daemon that was stopped", device.display());
    let (daemon, device) = Daemon::start_one(lab, disk())?;
    load.job.set("verify_only", 1).run(lab)?;
    PATTERN.expect(&DirectDisk::open(&device)?, KEPT)?;
    daemon.stop().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_done_again_are_counted() {
        let mut tally = Tally::default();
        tally.count_resumed(
            "INFO disk d0: queue 0: 31 requests were in flight and are done again\nready\n\
             INFO disk d0: queue 1: 4 requests were in flight and are done again\n",
        );
        assert_eq!(tally.resumed, 35);
    }
}
