//! One suite that every module and every stack passes: the crate's contract, tried from outside.
//!
//! ```text
//!   steps    random I/Os: any length, any memory, good and bad
//!   run      puts them to a channel ─────┐
//!   model    what the disk must hold ◄───┴─ compares
//!   targets  the disks
//!   faults   the same with devices in between that fail
//!   channels the same with devices in between that are slow, and what channels promise besides
//! ```
//! A run that fails prints its seed; `SPINBLK_TEST_SEED=<it> cargo test -p spinblk-bdev --test conformance <name>` makes
//! the same I/Os again. Runs that shrink find the fewest I/Os that fail.
#![allow(clippy::unwrap_used)]

mod channels;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod model;
mod run;
mod steps;
mod targets;

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use spinblk_bdev::{Aio, AioOptions, Bdev};

use common::{file_in, memory_dir};
use run::{Faults, Run};
use steps::Dice;
use targets::{Make, Target};

const DEPTH: usize = 24;
/// I/Os of a long run.
const MANY: usize = 100_000;

/// Short runs, cut down to what matters when one fails.
fn short_runs(target: &Target, cases: u32) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&Dice::sequences(), |throws| {
        let steps = Run::new(target, DEPTH, Faults::Never).steps(throws.into_iter());
        steps.map_err(TestCaseError::fail)
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

macro_rules! conforms {
    ($($target:ident),* $(,)?) => {$(
        mod $target {
            use super::*;

            const MAKE: Make = targets::$target;

            #[test]
            fn does_many_operations_right() {
                Run::new(&Target::plain(MAKE), DEPTH, Faults::Never).at_random(MANY);
            }

            #[test]
            fn does_short_sequences_right() {
                short_runs(&Target::plain(MAKE), 16);
            }

            #[test]
            fn says_what_it_is() {
                channels::says_what_it_is(MAKE);
            }

            #[test]
            fn fails_what_a_fault_touches_and_no_more() {
                faults::fail_what_they_touch_and_no_more(MAKE);
            }

            #[test]
            fn stands_faults_everywhere() {
                faults::everywhere_at_random(MAKE);
            }

            #[test]
            fn stands_slow_children() {
                channels::slow_children(MAKE);
            }

            #[test]
            fn may_be_dropped_under_load() {
                channels::dropped_under_load(MAKE);
            }

            #[test]
            fn is_one_disk_to_two_cores() {
                channels::two_cores_see_each_other(MAKE);
            }

            #[test]
            fn grows_or_refuses() {
                channels::grows_or_refuses(MAKE);
            }
        }
    )*};
}

conforms! {
    null,
    malloc_512,
    malloc_4096,
    aio_direct,
    aio_direct_4096,
    aio_buffered,
    aio_in_memory,
    raid0_of_two,
    raid0_of_three_unequal,
    crypto_512,
    crypto_4096,
    delay_that_passes_all_on,
    error_that_passes_all_on,
    crypto_over_raid0_over_aio,
    raid0_over_crypto_over_malloc,
    raid0_over_raid0_over_slow_malloc,
}

/// Overwrites the block device named by `SPINBLK_TEST_BLOCK_DEVICE`, which should be small; a file of its own without it.
#[test]
fn the_target_given_does_many_operations_right() {
    let given = std::env::var_os("SPINBLK_TEST_BLOCK_DEVICE").map(PathBuf::from);
    // Removed when the test ends.
    let (path, _file) = given.map_or_else(
        || {
            let file = file_in(&memory_dir(), 1 << 20);
            (file.path().to_owned(), Some(file))
        },
        |path| (path, None),
    );
    let aio = Aio::open("given", path, AioOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    println!("{:?}, O_DIRECT {}", aio.info(), aio.is_direct());
    let target = Target::given(Arc::new(aio));
    short_runs(&target, 8);
    Run::new(&target, DEPTH, Faults::Never).at_random(MANY);
}
