//! Where the time went: what is slow on purpose is found by its stage and by its requests, and counts are fio's.

use crate::ctl::{SOCKET, ask, list, number};
use crate::fail::{Fail, ensure};
use crate::fio::{FioJob, FioResult};
use crate::lab::Lab;
use crate::spinblk::Daemon;
use crate::stack::Stack;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const READS: u64 = 6000;
const LATENCY_NS: u64 = 2_000_000;
/// The delay counts from inside the submission, the stage from its end.
const DELAYED_NS: u64 = LATENCY_NS * 99 / 100;
/// A hundredth of the disk: reads anywhere on it are delayed as rarely, and one can tell which.
const SIZE_BYTES: u64 = 64 << 20;
const DELAYED_BYTES: u64 = SIZE_BYTES / 100;
/// Slow requests that a queue keeps.
const RING: usize = 256;
const STALL: Duration = Duration::from_millis(300);
/// fio's histogram and ours, 1/64 and 0.8 % wide.
const PRECISION: f64 = 1.025;

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let rule = format!("child = \"m\"\nops = [\"read\"]\nlength = {DELAYED_BYTES}\nlatency = \"2ms\"");
    let stack =
        Stack::new().bdev("m", "malloc", &format!("size = {SIZE_BYTES}")).bdev("slow", "delay", &rule);
    let (daemon, device) = stack.disk("d0", "slow").control(SOCKET).start_one(lab, "d0")?;
    ask(&["threshold", "d0", "1900us"])?;
    ask(&["reset"])?;
    let reads = FioJob::new("reads", &device, "randread", "4k").depth(4).set("number_ios", READS);
    let fio = reads.set("size", "64M").set("norandommap", 1).set("cpus_allowed", 0).run(lab)?;
    counts_are_fios(lab, &fio)?;
    let queue = busiest_queue()?;
    stages_add_up()?;
    percentiles_agree(lab, queue, &fio)?;
    slow_requests_are_named(lab, &fio)?;
    a_stall_is_seen(lab, &daemon, &device)?;
    daemon.stop().map(drop)
}

fn counts_are_fios(lab: &Lab, fio: &FioResult) -> Result<(), Fail> {
    let stats = ask(&["stats"])?;
    let queues = list(&stats["disks"][0]["queues"]);
    let reads = queues.iter().flat_map(|queue| list(&queue["ops"])).filter(|op| op["op"] == "read");
    let (mut ios, mut bytes, mut errors) = (0, 0, 0);
    for op in reads {
        ios += number(&op["ios"]);
        bytes += number(&op["bytes"]);
        errors += number(&op["errors"]);
    }
    let theirs = (fio.read.total_ios, fio.read.io_bytes);
    ensure!(
        (ios, bytes, errors) == (theirs.0, theirs.1, 0),
        "{ios} reads, {bytes} bytes, {errors} errors; fio: {theirs:?}"
    );
    lab.say(&format!("{ios} reads, as many as fio made"));
    Ok(())
}

/// Latencies of reads: one entry for each queue and stage.
fn reads() -> Result<Vec<Value>, Fail> {
    let answer = ask(&["hist", "d0", "--op", "read"])?;
    Ok(list(&answer["entries"]).to_vec())
}

fn busiest_queue() -> Result<u64, Fail> {
    let reads = reads()?;
    let totals = reads.iter().filter(|entry| entry["stage"] == "total");
    let busiest = totals.max_by_key(|entry| number(&entry["count"]));
    busiest.map(|entry| number(&entry["queue"])).ok_or_else(|| Fail::Check("no latency of a read".to_owned()))
}

fn stages_add_up() -> Result<(), Fail> {
    let reads = reads()?;
    let sum = |of_total: bool| -> u64 {
        let wanted = reads.iter().filter(|entry| (entry["stage"] == "total") == of_total);
        wanted.map(|entry| number(&entry["sum_ns"])).sum()
    };
    let (stages, totals) = (sum(false), sum(true));
    ensure!(stages == totals && totals > 0, "stages take {stages} ns together, the requests {totals}");
    Ok(())
}

/// fio sees what spinblk sees and the way to it besides.
fn percentiles_agree(lab: &Lab, queue: u64, fio: &FioResult) -> Result<(), Fail> {
    let reads = reads()?;
    let find = |stage: &str| {
        let found = reads.iter().find(|entry| number(&entry["queue"]) == queue && entry["stage"] == stage);
        found.ok_or_else(|| Fail::Check(format!("queue {queue} has no latency of stage {stage}")))
    };
    let (total, bdev) = (find("total")?, find("bdev")?);
    for (name, percent) in [("p50_ns", 50.0), ("p90_ns", 90.0), ("p999_ns", 99.9)] {
        let (ours, theirs) = (number(&total[name]), fio.read.percentile_ns(percent));
        let agree = ours as f64 <= theirs as f64 * PRECISION;
        ensure!(agree, "{name}: {ours} ns here, {theirs} ns at fio");
    }
    let (tail, all) = (number(&bdev["p999_ns"]), number(&total["p999_ns"]));
    ensure!(tail >= DELAYED_NS, "p99.9 in the bdev stage is {tail} ns, of {all} in all");
    lab.say(&format!(
        "p99.9 is {all} ns, of these {tail} with the block device; fio says {}",
        fio.read.percentile_ns(99.9)
    ));
    Ok(())
}

/// On a busy host others are slow, too, and may push the delayed ones out of the records; what is left must still agree.
fn slow_requests_are_named(lab: &Lab, fio: &FioResult) -> Result<(), Fail> {
    let answer = ask(&["slow", "d0", "--last", "1000"])?;
    let records = list(&answer["records"]);
    let is_in_range = |record: &&Value| number(&record["offset_bytes"]) < DELAYED_BYTES;
    let delayed: Vec<&Value> = records.iter().filter(is_in_range).collect();
    let (count, all, reads) = (delayed.len() as u64, records.len(), fio.read.total_ios);
    let (least, most) = (if all < RING { reads / 200 } else { 1 }, reads / 50);
    ensure!((least..=most).contains(&count), "{count} of {all} slow records are of the delayed range");
    let is_told = |record: &&Value| {
        let [submit, bdev] = ["submit", "bdev"].map(|stage| number(&record["stages_ns"][stage]));
        // The delay begins inside the submission: where the host stops the reactor there, much of it passes before its end.
        record["op"] == "read" && number(&record["bytes"]) == 4096 && submit + bdev >= LATENCY_NS
    };
    let silent = delayed.iter().find(|record| !is_told(record));
    ensure!(silent.is_none(), "a slow record hides the delay: {silent:?}");
    lab.say(&format!("{count} of {reads} reads were delayed, and are named"));
    Ok(())
}

/// A daemon that the kernel does not run finds its requests late, and says so.
fn a_stall_is_seen(lab: &Lab, daemon: &Daemon, device: &Path) -> Result<(), Fail> {
    ask(&["reset"])?;
    let job = FioJob::new("stalled", device, "randread", "4k").depth(4).set("cpus_allowed", 0);
    let mut fio = job.seconds(3).start()?;
    sleep(Duration::from_secs(1));
    let signal =
        |signal| kill(Pid::from_raw(daemon.pid() as i32), signal).map_err(Fail::system("signal spinblk"));
    signal(Signal::SIGSTOP)?;
    sleep(STALL);
    signal(Signal::SIGCONT)?;
    fio.finish()?;
    let reads = reads()?;
    let longest = |stage: &str| {
        let of_stage = reads.iter().filter(|entry| entry["stage"] == stage);
        of_stage.map(|entry| number(&entry["max_ns"])).max().unwrap_or(0)
    };
    let (pick_up, least) = (longest("pick_up"), STALL.as_nanos() as u64 / 2);
    ensure!(
        pick_up >= least,
        "the longest pick-up is {pick_up} ns, though spinblk stood still for {STALL:?}"
    );
    lab.say(&format!("a stall of {STALL:?} shows as a pick-up of {} ms", pick_up / 1_000_000));
    Ok(())
}
