//! QEMU's generic vDPA device: a machine is booted inside of the lab's, and fio in it works on spinblk's disk.
//!
//! ```text
//!   lab's machine   spinblk d0 ─ vhost-vdpa ─ QEMU ─┐         then, on virtio-vdpa: every block once more
//!   machine in it                              /dev/vda: fio writes and verifies
//! ```
//! Both machines run this scenario; a setting says which one is meant.

use crate::block::{attribute, with_serial};
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::protocol::{Event, Mode, Outcome, Plan, Planned};
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;
use crate::wait::wait_some;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

const NAME: &str = "vhost-vdpa-guest";
/// The setting that is there in the machine inside only.
const INSIDE: &str = "inside";
const SERIAL: &str = "NESTED";
const DISK_MIB: u64 = 64;
const BLOCK_KIB: u64 = 16;
/// As many as are read again.
const WRITES: u64 = 256;
/// By the clock of the machine inside, and by this one's.
const INSIDE_LIMIT_S: u64 = 100;
const RUN_LIMIT_S: u64 = 400;
const APPEAR_LIMIT_S: u64 = 60;

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    if lab.setting(INSIDE, false)? { inside(lab) } else { outside(lab) }
}

/// Writes every block of a part of the disk once, with checksums.
fn job(device: &Path) -> FioJob {
    let job = FioJob::new("guest", device, "randwrite", &format!("{BLOCK_KIB}k"));
    job.depth(8).set("size", format!("{}k", WRITES * BLOCK_KIB)).verify()
}

fn outside(lab: &Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["vhost_vdpa"])?;
    let disk = Disk::malloc("d0", DISK_MIB).set("driver", "vhost-vdpa").set("serial", SERIAL);
    let mut daemon = Daemon::start(lab, "1", &[disk])?;
    let mut machine = Machine::start(lab, &vdpa::vhost_device("d0")?, &plan())?;
    lab.say("QEMU is started with the disk as a generic vDPA device");
    let boot_s = machine.wait_until_booted()?.as_secs();
    let booted = Instant::now();
    lab.say(&format!("its init runs after {boot_s} s"));
    let events = machine.finish(RUN_LIMIT_S)?;
    let finished = events.iter().find_map(|event| match event {
        Event::Finished { outcome, message, .. } => Some((*outcome, message)),
        _ => None,
    });
    let passed = finished.is_some_and(|(outcome, _)| outcome == Outcome::Passed);
    ensure!(passed, "in the machine: {finished:?}, of {events:?}");
    let work_s = booted.elapsed().as_secs();
    lab.say(&format!("{WRITES} writes, read and verified in it, and its end, took {work_s} s more"));

    vdpa::rebind("d0", "virtio_vdpa")?;
    let again = job(&vdpa::block_device("d0")?).set("verify_only", 1).run(lab)?;
    ensure!(again.read.total_ios >= WRITES, "only {} blocks were read again", again.read.total_ios);
    lab.say("and verified here, on the same disk");
    // The guest has one CPU and sets up one queue of the two, which is nothing to complain of.
    let said = daemon.text();
    ensure!(!said.contains("ERROR"), "spinblk complained:\n{said}");
    let report = daemon.stop()?;
    let (reads, writes) = report.disk("d0")?.reads_and_writes();
    ensure!(writes == WRITES, "spinblk counts {writes} writes, fio made {WRITES}");
    ensure!(reads >= 2 * WRITES, "spinblk counts {reads} reads, fio made {} at least", 2 * WRITES);
    Ok(())
}

/// What the machine inside is to do.
fn plan() -> Plan {
    Plan {
        mode: Mode::Run,
        scenarios: vec![Planned { name: NAME.to_owned(), bound_s: INSIDE_LIMIT_S }],
        limit_s: INSIDE_LIMIT_S,
        settings: BTreeMap::from([(INSIDE.to_owned(), true.to_string())]),
    }
}

fn inside(lab: &Lab) -> Result<(), Fail> {
    lab.modprobe(&["virtio_blk"])?;
    let what = format!("a disk with the serial number {SERIAL}");
    let device = wait_some(&what, APPEAR_LIMIT_S, || with_serial(SERIAL))?;
    let sectors = attribute(&device, "size");
    ensure!(sectors == (DISK_MIB << 11).to_string(), "{} has {sectors} sectors", device.display());
    let result = job(&device).run(lab)?;
    let (writes, reads) = (result.write.total_ios, result.read.total_ios);
    ensure!(writes == WRITES && reads == WRITES, "fio made {writes} writes and {reads} reads");
    Ok(())
}
