//! Devices that fail, wherever something can stand between a parent and a child: every I/O is reported once, those that
//! touch what failed end in an error, and all others are done as if nothing had happened.

use std::sync::Arc;
use std::time::Duration;

use spinblk_bdev::{Bdev, Delay, Faulty, IoError, Moved, Ops, Rule};

use crate::common::Bench;
use crate::run::{Faults, Run};
use crate::targets::{self, Make, Target};

const DEPTH: usize = 24;
const MILLION: u32 = 1_000_000;
const EIO: IoError = IoError::Errno(libc::EIO);

/// `below`, failing by a rule.
fn faulty(number: usize, rule: Rule, moved: Moved, below: Arc<dyn Bdev>) -> Arc<dyn Bdev> {
    Arc::new(Faulty::new(&format!("error{number}"), rule, EIO, moved, below).unwrap())
}

/// `below`, with half of its I/Os late.
fn late(number: usize, below: Arc<dyn Bdev>) -> Arc<dyn Bdev> {
    let rule = Rule { per_million: MILLION / 2, seed: number as u64, ..Rule::default() };
    Arc::new(Delay::new(&format!("delay{number}"), rule, Duration::from_micros(30), below).unwrap())
}

/// A target that fails by `rule` in one joint, and is late in all.
fn with_fault(make: Make, joint: usize, rule: &Rule, moved: Moved, test: &dyn Fn(&Target)) {
    test(&Target::new(make, &|number, below| match number == joint {
        true => faulty(number, rule.clone(), moved, late(number, below)),
        false => late(number, below),
    }));
}

/// Which blocks of `target` cannot be read, asked one by one.
fn unreadable(target: &Target) -> Vec<bool> {
    let info = target.bdev.info();
    let mut bench = Bench::new(target.bdev.as_ref(), 1);
    let block_size = u64::from(info.block_size);
    (0..info.blocks()).map(|block| bench.read(block * block_size, block_size as usize).is_err()).collect()
}

/// The blocks that fail when all that `rule` speaks of fails in one joint.
fn struck_blocks(make: Make, joint: usize, rule: &Rule) -> Vec<bool> {
    let rule = Rule { ops: Ops::READ, ..rule.clone() };
    let struck = std::cell::Cell::new(Vec::new());
    with_fault(make, joint, &rule, Moved::Nothing, &|target| struck.set(unreadable(target)));
    struck.take()
}

/// One joint after the other fails, in whole or in its first part: I/Os that touch what lies there fail, and no others.
pub(crate) fn fail_what_they_touch_and_no_more(make: Make) {
    let ways = [
        (Ops::ALL, Moved::Nothing),
        (Ops::ALL, Moved::Part),
        (Ops::READ, Moved::All),
        (Ops::WRITE.and(Ops::FLUSH), Moved::Part),
        (Ops::DISCARD.and(Ops::WRITE_ZEROES), Moved::All),
    ];
    for joint in 0..Target::plain(make).joints {
        for range_bytes in [0..u64::MAX, 40_000..90_000] {
            let rule = Rule { range_bytes, ..Rule::default() };
            let blocks = struck_blocks(make, joint, &rule);
            assert!(blocks.contains(&true), "a fault in joint {joint} fails nothing");
            for (ops, moved) in ways {
                println!("joint {joint}, {rule:?}, {ops:?}, {moved:?}");
                let rule = Rule { ops, ..rule.clone() };
                with_fault(make, joint, &rule, moved, &|target| {
                    let mut run = Run::new(target, DEPTH, Faults::Exactly(ops, blocks.clone()));
                    run.at_random(500);
                });
            }
        }
    }
}

/// Everything fails at random, and half of it late: a parent with several failed children says so once, and not before the
/// last of them is done with the memory.
pub(crate) fn everywhere_at_random(make: Make) {
    for moved in [Moved::Nothing, Moved::Part, Moved::All] {
        let target = Target::new(make, &|number, below| {
            let rule = Rule { per_million: MILLION / 20, seed: number as u64, ..Rule::default() };
            faulty(number, rule, moved, late(number, below))
        });
        let mut run = Run::new(&target, DEPTH, Faults::Anywhere);
        run.at_random(5000);
        assert!(run.failed > 0 && run.succeeded > run.failed, "{} and {}", run.failed, run.succeeded);
    }
}

/// Each block of a striped device is on one child, and on one only.
#[test]
fn children_of_raid0_share_its_blocks_out() {
    for make in [targets::raid0_of_two as Make, targets::raid0_of_three_unequal] {
        let children = Target::plain(make).joints - 1;
        let on_child: Vec<_> =
            (0..children).map(|child| struck_blocks(make, child, &Rule::default())).collect();
        for block in 0..on_child[0].len() {
            let owners = on_child.iter().filter(|blocks| blocks[block]).count();
            assert_eq!(owners, 1, "block {block} of {}", on_child[0].len());
        }
    }
}
