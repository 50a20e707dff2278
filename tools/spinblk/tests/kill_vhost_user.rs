//! The daemon of a vhost-user disk dies under a driver's load, again and again: the driver sees no error, no wrong byte and no
//! request that hangs. `cargo xtask torture --transport vhost-user` does it for longer.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use spinblk_torture::Story;

/// Both want a core for the daemon.
static CORES: Mutex<()> = Mutex::new(());

const CYCLES: u32 = 20;

fn tell(packed: bool, freeze: Option<Duration>) {
    let _alone = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let story = Story {
        program: &cargo_bin("spinblk"),
        folder: folder.path(),
        packed,
        cycles: CYCLES,
        seed: 1,
        work_ms: 20..250,
        freeze,
        say: &|line| println!("{line}"),
        stop: &|| false,
    };
    let tally = story.run().unwrap_or_else(|error| panic!("{error}"));
    println!("{tally}");
    assert_eq!((tally.killed, tally.stopped), (CYCLES, CYCLES));
    assert!(tally.killed_starting > CYCLES / 2 && tally.requests > 1000, "{tally}");
}

#[test]
fn nothing_is_lost_in_split_rings() {
    tell(false, Some(Duration::from_secs(20)));
}

#[test]
fn nothing_is_lost_in_packed_rings() {
    tell(true, None);
}
