//! The load generator on a disk for virtual machines, over vhost-vdpa: each kind of ring, polled and by interrupt.

use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;
use serde::Deserialize;
use std::fs::File;
use std::path::Path;

const QUEUES: usize = 2;
const RUN_LIMIT_S: u64 = 60;
/// Two verified seconds on CPU 0, beside the reactor, on queues of 16.
const COMMON: &str = "--queues 2 --cores 0 --qd 16 --span 16MiB --warmup-s 0 --time-s 2 --verify";
/// What differs.
const RUNS: [&str; 6] = [
    "--rw randwrite --completions poll",
    "--rw randread --completions interrupt",
    "--rw randwrite --completions interrupt --indirect --no-event-idx",
    "--rw randwrite --completions poll --ring packed",
    "--rw randread --completions interrupt --ring packed",
    "--rw randwrite --completions interrupt --ring packed --indirect --no-event-idx",
];
/// What is refused, and what the error must say.
const WRONG: [(&str, &str); 2] = [
    ("--queues 3 --cores 0", "--queues 3: the device offers 2 queue(s)"),
    ("--queues 1 --cores 0 --qd 128", "rings of 512 entries (it takes 256 at most)"),
];

/// What the load generator says of a run.
#[derive(Deserialize)]
struct Run {
    verify: Counts,
    queues: Vec<Lane>,
}

#[derive(Deserialize)]
struct Counts {
    written: u64,
    checked: u64,
}

#[derive(Deserialize)]
struct Lane {
    kicks: u64,
    interrupts: u64,
}

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["vhost_vdpa"])?;
    let disk = Disk::malloc("d0", 64).set("driver", "vhost-vdpa").set("packed", true);
    let daemon = Daemon::start(lab, "1", &[disk])?;
    let node = vdpa::vhost_device("d0")?;
    refusals(lab, &node)?;
    let (mut read, mut written) = (0, 0);
    for flags in RUNS {
        let run = load(lab, &node, flags)?;
        // Both happen: reads come after a pass of writes, and writes before one of reads.
        ensure!(run.verify.written > 0 && run.verify.checked > 0, "{flags}: nothing was checked");
        ensure!(run.queues.len() == QUEUES, "{flags}: {} queues, not {QUEUES}", run.queues.len());
        let interrupts: Vec<u64> = run.queues.iter().map(|lane| lane.interrupts).collect();
        let wanted = flags.contains("interrupt");
        let right = interrupts.iter().all(|count| (*count > 0) == wanted);
        ensure!(right, "{flags}: interrupts of each queue: {interrupts:?}");
        let kicks: u64 = run.queues.iter().map(|lane| lane.kicks).sum();
        let Counts { written: writes, checked: reads } = run.verify;
        lab.say(&format!(
            "{flags}: {writes} writes, {reads} reads, interrupts {interrupts:?}, {kicks} kicks"
        ));
        read += reads;
        written += writes;
    }
    let report = daemon.stop()?;
    let disk = report.disk("d0")?;
    let (theirs, ours) = (disk.reads_and_writes(), (read, written));
    ensure!(theirs == ours, "spinblk counts {theirs:?} reads and writes, the load generator made {ours:?}");
    let taken: u64 = disk.queues.iter().map(|queue| queue.requests).sum();
    ensure!(taken == read + written, "the queues took {taken} requests, {} were made", read + written);
    Ok(())
}

/// A verified run without a fault; gives its report.
fn load(lab: &Lab, node: &Path, flags: &str) -> Result<Run, Fail> {
    let path = lab.out_dir().join("vdpa-perf.json");
    perf(node, &format!("{COMMON} {flags}")).arg("--json").path(&path).limit_s(RUN_LIMIT_S).run()?;
    let text = std::fs::read_to_string(&path).map_err(Fail::file("read", &path))?;
    serde_json::from_str(&text).map_err(|source| Fail::Json { what: path.display().to_string(), source })
}

fn perf(node: &Path, flags: &str) -> Cmd {
    let target = format!("vhost-vdpa:{}", node.display());
    Cmd::new("spinblk").args(["perf", "--target", &target]).args(flags.split_whitespace())
}

/// What the device cannot do, and a device that somebody else has, are told; the runs after it find it unharmed.
fn refusals(lab: &Lab, node: &Path) -> Result<(), Fail> {
    for (flags, want) in WRONG {
        refuse(lab, node, flags, want)?;
    }
    let user = File::options().read(true).write(true).open(node).map_err(Fail::file("open", node))?;
    refuse(lab, node, "--cores 0", "another program has the device")?;
    drop(user);
    refuse(lab, Path::new("/dev/vhost-vdpa-77"), "--cores 0", "driver=vhost-vdpa")
}

fn refuse(lab: &Lab, node: &Path, flags: &str, want: &str) -> Result<(), Fail> {
    let output = perf(node, flags).output()?;
    let text = output.text.trim();
    lab.say(&format!("{flags}: {text}"));
    ensure!(output.status.code().is_some_and(|code| code != 0), "`{flags}`: {}:\n{text}", output.status);
    ensure!(text.contains(want) && text.lines().count() == 1, "`{flags}` does not say `{want}`:\n{text}");
    Ok(())
}
