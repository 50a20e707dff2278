//! A flush is honest: what was flushed is there after the machine was killed, with all the memory that it had.
//!
//! ```text
//!   life 1   disk ─► spinblk ─► page cache ─► drive             the page cache goes with the machine, and with it
//!            write, flush, write, kill                          all that nothing but a flush would have brought out
//!   life 2   disk ─► spinblk ─► the same drive                  flushed: there.  Not flushed: lost, or this proves nothing
//! ```

use crate::block::{DirectDisk, with_serial};
use crate::fail::{Fail, ensure};
use crate::host::Host;
use crate::lab::Lab;
use crate::pattern::Pattern;
use crate::protocol::{DRIVE_SERIAL, Drives, LIFE_VARIABLE, Wish};
use crate::stack::{Stack, key_file};
use crate::vdpa;
use crate::wait::wait_some;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One under a disk by itself, two under a stack.
pub(super) const DRIVES: Drives = Drives { count: 3, size_mib: 32 };
const DISKS: [&str; 2] = ["plain", "stacked"];

const MIB: u64 = 1 << 20;
const CHUNK_BYTES: u64 = 64 << 10;
const FLUSHED: Range<u64> = 0..8 * MIB;
const NOT_FLUSHED: Range<u64> = 16 * MIB..24 * MIB;
/// What the page cache writes back as one.
const PAGE_LEN: usize = 4096;
const OLD: Pattern = Pattern(1);
const NEW: Pattern = Pattern(2);

const APPEAR_LIMIT_S: u64 = 30;

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    key_file()?;
    // By itself the page cache writes nothing: a flush has to.
    for setting in ["dirty_writeback_centisecs", "dirty_expire_centisecs"] {
        let path = Path::new("/proc/sys/vm").join(setting);
        let value = if setting.contains("expire") { "360000" } else { "0" };
        std::fs::write(&path, value).map_err(Fail::file("write", &path))?;
    }
    let drives = (0..DRIVES.count).map(drive).collect::<Result<Vec<PathBuf>, Fail>>()?;
    let names = ["a", "b", "c"];
    let leaves = names.iter().zip(&drives);
    let stack = leaves.fold(Stack::new(), |stack, (name, path)| stack.aio(name, path, "off"));
    let stack = stack.raid0("s", &names[1..], CHUNK_BYTES).crypto("t", "s", 4096);
    let daemon = stack.disk(DISKS[0], "a").disk(DISKS[1], "t").start(lab)?;
    let open = |name: &str| DirectDisk::open(&vdpa::block_device(name)?);
    let disks = [open(DISKS[0])?, open(DISKS[1])?];
    match std::env::var(LIFE_VARIABLE).as_deref() {
        Ok("1") => first_life(lab, &disks),
        _ => {
            for (name, disk) in DISKS.iter().zip(&disks) {
                what_is_there(lab, name, disk)?;
            }
            drop(disks);
            daemon.stop().map(drop)
        }
    }
}

/// Never returns without an error.
fn first_life(lab: &Lab, disks: &[DirectDisk]) -> Result<(), Fail> {
    for disk in disks {
        OLD.write(disk, FLUSHED)?;
        OLD.write(disk, NOT_FLUSHED)?;
        disk.flush()?;
        NEW.write(disk, FLUSHED)?;
        disk.flush()?;
        NEW.write(disk, NOT_FLUSHED)?;
    }
    lab.say("written and flushed; the power may go");
    Host::open()?.ask(Wish::CutPower)?;
    Err(Fail::Check("the host did not cut the power".to_owned()))
}

fn what_is_there(lab: &Lab, name: &str, disk: &DirectDisk) -> Result<(), Fail> {
    NEW.expect(disk, FLUSHED).map_err(|lost| Fail::Check(format!("{name}: flushed and lost: {lost}")))?;
    let (mut old, mut new) = (0, 0);
    let pages = NOT_FLUSHED.step_by(PAGE_LEN).map(|at| (at, PAGE_LEN));
    disk.read(pages, |at, page| {
        old += u32::from(OLD.is_in(at, page));
        new += u32::from(NEW.is_in(at, page));
        Ok(())
    })?;
    let all = (NOT_FLUSHED.end - NOT_FLUSHED.start) / PAGE_LEN as u64;
    ensure!(
        u64::from(old + new) == all,
        "{name}: of {all} pages {old} are old, {new} new, and the rest torn"
    );
    ensure!(old > 0, "{name}: nothing was lost that was not flushed, so this shows nothing about flushes");
    lab.say(&format!("{name}: all that was flushed is there; of {all} pages that were not, {old} are lost"));
    Ok(())
}

/// The drive of that number.
fn drive(number: usize) -> Result<PathBuf, Fail> {
    let serial = format!("{DRIVE_SERIAL}{number}");
    wait_some(&format!("a drive with the serial number {serial}"), APPEAR_LIMIT_S, || with_serial(&serial))
}
