//! A client of a vhost-vdpa device that we did not write: the virtio-blk driver of the `blkio` crate, with checked random I/O.
//!
//! ```text
//!   /init blkio DEVICE poll|interrupt random REQUESTS SEED      anything anywhere, everything read is checked
//!   /init blkio DEVICE poll|interrupt write|read NUMBER         the whole disk, as `Pattern(NUMBER)` has it
//! ```
//! It is a program of its own, because the kernel may hold it up for as long as the disk's daemon is away.

mod disk;
mod random;

use crate::fail::{Fail, ensure};
use crate::pattern::Pattern;
use disk::Disk;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Does what the words say; gives a line to print.
pub fn run(words: &[&str]) -> Result<String, Fail> {
    let [device, mode, action, rest @ ..] = words else { return Err(usage()) };
    ensure!(matches!(*mode, "poll" | "interrupt"), "{}", usage());
    let numbers: Vec<u64> = rest.iter().map_while(|word| word.parse().ok()).collect();
    // Beside the reactor, not on its core.
    let mut cpus = CpuSet::new();
    cpus.set(0)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus))
        .map_err(Fail::system("go to CPU 0"))?;
    let mut disk = Disk::open(device, *mode == "poll")?;
    match (*action, &numbers[..]) {
        ("random", &[requests, seed]) => random::run(&mut disk, requests, seed),
        ("write", &[number]) => disk.write_all(Pattern(number)),
        ("read", &[number]) => disk.check_all(Pattern(number)),
        _ => Err(usage()),
    }
}

fn usage() -> Fail {
    Fail::Check(
        "usage: labvm blkio DEVICE poll|interrupt random REQUESTS SEED | write NUMBER | read NUMBER".into(),
    )
}
