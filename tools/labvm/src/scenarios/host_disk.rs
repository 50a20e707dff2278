//! A virtual machine's disk over vhost-user: this guest is the virtual machine, and spinblk runs on its host.
//!
//! The machine is rebooted in the middle, and each life finds out from the disk which one it is: nothing else of
//! the first is left in the second.

use crate::block::{DirectDisk, Mount, attribute, check_filesystem, checksums, queue_count, with_serial};
use crate::command::Cmd;
use crate::dice::Dice;
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::host::Host;
use crate::kmsg::{Kmsg, complaint};
use crate::lab::Lab;
use crate::protocol::{Backing, HOST_DISK_SERIAL, HostDisk, Wish};
use crate::scenarios::demo::say_where;
use crate::scenarios::kill::{Load, block_counters};
use crate::wait::{wait_for, wait_some};
use nix::sys::reboot::{RebootMode, reboot};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

pub(super) const SPLIT: HostDisk =
    HostDisk { size_mib: 256, queues: 2, packed: false, backing: Backing::Malloc };
pub(super) const PACKED: HostDisk = HostDisk { packed: true, ..SPLIT };
pub(super) const STACK: HostDisk = HostDisk { backing: Backing::Files, ..SPLIT };

pub(super) const FILE: HostDisk = HostDisk { size_mib: 64, backing: Backing::File, ..SPLIT };

const GROWN_MIB: u64 = 96;
const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
/// The disk's parts: a file system, a pattern that must stay, the mark, and room for fio.
const FILESYSTEM_MIB: u64 = 128;
const PATTERN_MIB: u64 = 128;
const PATTERN_LEN_MIB: u64 = 16;
const MARK_MIB: u64 = 144;
const FIO_MIB: u64 = 160;

const PATTERN: u8 = 0xa5;
/// Written over the mark's block when the first life is over.
const MARK: u8 = 0x2e;

/// Bit of VIRTIO_F_RING_PACKED.
const RING_PACKED: usize = 34;
/// How often spinblk is killed under load, and ended, and the time before each.
const KILLS: u32 = 20;
const RESTARTS: u32 = 4;
const WORK_MS: Range<u64> = 20..700;
/// A start of spinblk on the host, on which QEMU comes back every 200 ms.
const START_MS: Range<u64> = 0..300;
const FREEZE: Duration = Duration::from_secs(20);
/// How often a frozen spinblk may have had nothing to do.
const FREEZES: u32 = 5;
const APPEAR_LIMIT_S: u64 = 30;
const VANISH_LIMIT_S: u64 = 30;

/// Files, a reboot, unplugging and plugging: the data stays.
pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    let log = Kmsg::from_here()?;
    // In either life, so that not even a failure boots the machine again.
    Host::open()?.ask(Wish::EndAtReset)?;
    let device = appeared(lab, SPLIT)?;
    if DirectDisk::open(&device)?.expect(MARK_MIB * MIB, 4 * KIB, MARK).is_err() {
        first_life(lab, &device, log)
    } else {
        second_life(lab, &device)
    }
}

/// The same disk behind packed virtqueues.
pub(super) fn packed(lab: &mut Lab) -> Result<(), Fail> {
    let device = appeared(lab, PACKED)?;
    write_and_check(lab, "packed", &device)
}

/// The same disk on files, encrypted and striped: they bring it over a restart of spinblk.
pub(super) fn stack(lab: &mut Lab) -> Result<(), Fail> {
    let device = appeared(lab, STACK)?;
    write_and_check(lab, "first", &device)?;
    leave_data(lab, &device)?;
    let mut host = Host::open()?;
    unplug(lab, &mut host, &device)?;
    host.ask(Wish::Restart)?;
    lab.say("spinblk is another one now");
    host.ask(Wish::Plug)?;
    let device = appeared(lab, STACK)?;
    everything_is_there(lab, &device)?;
    write_and_check(lab, "again", &device)
}

/// The disk grows while fio works on it; the new part is there, and is written and read.
pub(super) fn resize(lab: &mut Lab) -> Result<(), Fail> {
    let device = appeared(lab, FILE)?;
    let load = FioJob::new("meanwhile", &device, "randrw", "4k-64k").depth(8).jobs(2, 24);
    let mut fio = load.on_both_cpus().seconds(15).start()?;
    sleep(Duration::from_secs(1));
    Host::open()?.ask(Wish::Grow { size_mib: GROWN_MIB })?;
    let want = (GROWN_MIB * MIB / 512).to_string();
    wait_for(&format!("{} to have {want} sectors", device.display()), APPEAR_LIMIT_S, || {
        attribute(&device, "size") == want
    })?;
    let (start, len_bytes) = (FILE.size_mib * MIB, (GROWN_MIB - FILE.size_mib) * MIB);
    let disk = DirectDisk::open(&device)?;
    disk.fill(start, len_bytes, PATTERN)?;
    disk.expect(start, len_bytes, PATTERN)?;
    ensure!(!fio.has_ended(), "fio had ended before the disk had grown");
    let result = fio.finish()?;
    ensure!(result.error == 0, "fio reports error {}", result.error);
    lab.say(&format!("{} MiB became {GROWN_MIB} MiB under load", FILE.size_mib));
    Ok(())
}

/// spinblk is killed under load, again and again, some of them while they start; then it is ended as a user would, and
/// frozen. fio sees neither an error nor a wrong byte.
pub(super) fn killed(lab: &mut Lab) -> Result<(), Fail> {
    let device = appeared(lab, STACK)?;
    let (cycles, mut dice) = (lab.setting("cycles", KILLS)?, Dice(lab.setting("seed", 1)?));
    let mut load = Load::start_with(&device, 1, FioJob::on_both_cpus)?;
    let mut host = Host::open()?;
    for cycle in 1..=cycles + RESTARTS {
        load.keep_up(&device)?;
        sleep(Duration::from_millis(dice.within(WORK_MS)));
        let wish = match cycle {
            _ if cycle > cycles => Wish::Restart,
            _ if cycle % 3 == 0 => Wish::KillTwice { after_ms: dice.within(START_MS) },
            _ => Wish::Kill,
        };
        host.ask(wish)?;
        lab.say(&format!("cycle {cycle}: {wish:?}, another one serves"));
    }
    load.keep_up(&device)?;
    // A QEMU that waits for an answer of a frozen daemon is frozen, too: it must have connected again.
    let (before, _) = block_counters(&device);
    wait_for("the last spinblk to serve", APPEAR_LIMIT_S, || block_counters(&device).0 > before)?;
    let done = frozen_under_load(&mut host, &mut load, &device)?;
    sleep(FREEZE);
    let (later, _) = block_counters(&device);
    host.ask(Wish::Thaw)?;
    ensure!(later == done, "a frozen spinblk has served {} I/Os", later - done);
    let jobs = load.finish()?;
    lab.say(&format!("{jobs} fio jobs found what they had written"));
    Ok(())
}

/// Freezes spinblk with I/O in flight; fio may just be between two of its jobs, and is given another try then. Gives what
/// had been served.
fn frozen_under_load(host: &mut Host, load: &mut Load, device: &Path) -> Result<u64, Fail> {
    for _ in 0..FREEZES {
        load.keep_up(device)?;
        host.ask(Wish::Freeze)?;
        sleep(Duration::from_secs(1));
        let (done, in_flight) = block_counters(device);
        if in_flight > 0 {
            return Ok(done);
        }
        host.ask(Wish::Thaw)?;
    }
    Err(Fail::Check(format!("nothing was in flight in {FREEZES} freezes")))
}

/// fio on the disk, for show; what spinblk says stands in its log on the host.
pub(super) fn demo(lab: &mut Lab) -> Result<(), Fail> {
    let seconds = lab.setting("seconds", 5)?;
    let device = appeared(lab, SPLIT)?;
    for rw in ["randread", "randwrite"] {
        lab.say(&format!("fio in the guest: {rw} 4k, 2 jobs, 16 deep each, {seconds} s"));
        let job = FioJob::new(rw, &device, rw, "4k").depth(16).seconds(seconds);
        job.on_both_cpus().set("numjobs", 2).set("group_reporting", 1).run_aloud()?;
    }
    say_where(lab, "spinblk on the host")
}

fn first_life(lab: &Lab, device: &Path, mut log: Kmsg) -> Result<(), Fail> {
    write_and_check(lab, "first", device)?;
    leave_data(lab, device)?;
    // The kernel's log does not outlive the reboot; init looks at the second one's only.
    let complaint = complaint(&log.lines());
    ensure!(complaint.is_none(), "the kernel complained:\n{}", complaint.unwrap_or_default());
    DirectDisk::open(device)?.fill(MARK_MIB * MIB, 4 * KIB, MARK)?;
    Host::open()?.ask(Wish::RebootAtReset)?;
    lab.say("rebooting");
    restart()
}

/// A file system with files, and a pattern behind it.
fn leave_data(lab: &Lab, device: &Path) -> Result<(), Fail> {
    Mount::format_first(device, FILESYSTEM_MIB)?;
    let mount = Mount::open(device, "disk")?;
    let files = mount.place().join("files");
    Cmd::new("cp").args(["-r", "/usr/bin"]).path(&files).limit_s(120).run()?;
    let sums = checksums(&files)?;
    ensure!(sums.lines().count() > 10, "only {} files were copied", sums.lines().count());
    let list = sums_path(&mount);
    std::fs::write(&list, sums).map_err(Fail::file("write", &list))?;
    mount.close()?;
    DirectDisk::open(device)?.fill(PATTERN_MIB * MIB, PATTERN_LEN_MIB * MIB, PATTERN)?;
    everything_is_there(lab, device)
}

fn second_life(lab: &Lab, device: &Path) -> Result<(), Fail> {
    lab.say("this is the second life");
    everything_is_there(lab, device)?;
    let mut host = Host::open()?;
    unplug(lab, &mut host, device)?;
    host.ask(Wish::Plug)?;
    let device = appeared(lab, SPLIT)?;
    everything_is_there(lab, &device)?;
    write_and_check(lab, "again", &device)
}

fn unplug(lab: &Lab, host: &mut Host, device: &Path) -> Result<(), Fail> {
    host.ask(Wish::Unplug)?;
    let gone = || find().is_none() && !device.exists();
    wait_for(&format!("{} to go", device.display()), VANISH_LIMIT_S, gone)?;
    lab.say("unplugged");
    Ok(())
}

/// The host's disk, once it is there and what it should be.
fn appeared(lab: &Lab, disk: HostDisk) -> Result<PathBuf, Fail> {
    lab.modprobe(&["virtio_blk"])?;
    let what = format!("a disk with the serial number {HOST_DISK_SERIAL}");
    let device = wait_some(&what, APPEAR_LIMIT_S, find)?;
    let (size, queues) = (attribute(&device, "size"), queue_count(&device));
    ensure!(
        size == (disk.size_mib * MIB / 512).to_string(),
        "{} has {size} sectors, not {} MiB",
        device.display(),
        disk.size_mib
    );
    ensure!(
        queues == usize::from(disk.queues),
        "{} has {queues} queues, not {}",
        device.display(),
        disk.queues
    );
    // One letter for each feature, from bit 0 on: those that driver and device have agreed upon.
    let features = attribute(&device, "device/features");
    let packed = features.as_bytes().get(RING_PACKED) == Some(&b'1');
    ensure!(
        packed == disk.packed,
        "packed virtqueues are {} with {}: its features are {features}",
        if packed { "used" } else { "not used" },
        device.display()
    );
    let layout = if packed { "packed" } else { "split" };
    lab.say(&format!("{} has {size} sectors and {queues} {layout} virtqueues", device.display()));
    Ok(device)
}

fn find() -> Option<PathBuf> {
    with_serial(HOST_DISK_SERIAL)
}

/// Reads and writes mixed, then writes with checksums that are read back, on both CPUs and so on both queues.
fn write_and_check(lab: &Lab, name: &str, device: &Path) -> Result<(), Fail> {
    let job = |name: String, rw, depth| {
        let job = FioJob::new(&name, device, rw, "4k-256k").depth(depth).set("offset", format!("{FIO_MIB}M"));
        job.jobs(2, 40).on_both_cpus()
    };
    let mixed = job(format!("{name}-mixed"), "randrw", 16).seconds(3).run(lab)?;
    let result = job(format!("{name}-verify"), "randwrite", 32).verify().run(lab)?;
    let (written, read) = (result.write.io_bytes, result.read.io_bytes);
    ensure!(written >= 80 * MIB, "fio wrote only {written} bytes of 80 MiB");
    ensure!(read >= written, "fio wrote {written} bytes and read only {read} back");
    let (mixed, checked) = (mixed.read.total_ios + mixed.write.total_ios, result.write.total_ios);
    lab.say(&format!("{mixed} mixed requests; {checked} writes agree with what is read"));
    Ok(())
}

/// The file system is whole, its files are what they were, and so is the pattern.
fn everything_is_there(lab: &Lab, device: &Path) -> Result<(), Fail> {
    DirectDisk::open(device)?.expect(PATTERN_MIB * MIB, PATTERN_LEN_MIB * MIB, PATTERN)?;
    check_filesystem(device)?;
    let mount = Mount::open(device, "disk")?;
    let list = sums_path(&mount);
    let before = std::fs::read_to_string(&list).map_err(Fail::file("read", &list))?;
    let after = checksums(&mount.place().join("files"))?;
    mount.close()?;
    ensure!(before == after, "files differ: first\n{before}\nand now\n{after}");
    let count = before.lines().count();
    lab.say(&format!("the file system is whole, {count} files and the pattern are the same"));
    Ok(())
}

fn sums_path(mount: &Mount) -> PathBuf {
    mount.place().join("md5sums")
}

/// Reboots as an administrator does, drivers being told; never returns without an error.
fn restart() -> Result<(), Fail> {
    // Lets the virtio-serial ports drain.
    sleep(Duration::from_millis(200));
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    Err(Fail::system("reboot")(error))
}
