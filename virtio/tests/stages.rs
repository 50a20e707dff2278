//! The books tell the truth: what was slow on purpose is found in the stage, and in the request, where it was slow.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use spinblk_bdev::{Bdev, Delay, Malloc, Ops, Rule};
use spinblk_perf::{OpKind, OpSnapshot, SizeClass, Stage};
use spinblk_reactor::Hugepages;
use spinblk_virtio::testing::{Buffer, Driver, Rig, header};

const LATENCY: Duration = Duration::from_millis(2);
const MS: u64 = 1_000_000;
const READ: u32 = 0;
const WRITE: u32 = 1;

fn malloc() -> Arc<dyn Bdev> {
    Arc::new(Malloc::new("m0", 4 << 20, 512, Hugepages::Off).unwrap())
}

fn submit(rig: &mut Rig, kind: u32, sector: u64, len_bytes: usize) {
    let data = if kind == READ { Buffer::In(len_bytes) } else { Buffer::Out(vec![7; len_bytes]) };
    let chain = [Buffer::Out(header(kind, sector)), data, Buffer::In(1)];
    rig.driver.submit(&chain, false, 0).unwrap();
}

fn stage(op: &OpSnapshot, stage: Stage) -> u64 {
    op.stages[stage as usize].at_quantile(1.0)
}

#[test]
fn a_slow_block_device_is_found_in_its_stage_and_its_requests_in_the_slow_log() {
    // One block in a hundred takes longer.
    let rule = Rule { ops: Ops::READ, range_bytes: 4096..8192, ..Rule::default() };
    let slow = Delay::new("slow", rule, LATENCY, malloc()).unwrap();
    let mut rig = Rig::new(Driver::new(64, 8192, true, 0), &slow);
    rig.board.slow.set_threshold(Some(LATENCY.as_nanos() as u64 - MS / 10));
    for round in 0..25 {
        for lane in 0..8 {
            let block = (round * 8 + lane) % 100;
            submit(&mut rig, READ, block * 8, 4096);
        }
        rig.drain();
    }
    let reads = rig.board.snapshot().of_kind(OpKind::Read);
    assert_eq!(reads.ios, 200);
    assert!(stage(&reads, Stage::Bdev) >= 2 * MS * 99 / 100, "{} ns", stage(&reads, Stage::Bdev));
    let slow_ones = rig.board.slow.read();
    let named: Vec<_> = slow_ones
        .iter()
        .map(|(_, io)| io)
        // The delay counts from inside the submission, the stage from its end.
        .filter(|io| io.stages_ns[Stage::Bdev as usize] >= 2 * MS * 99 / 100)
        .collect();
    // A busy machine may have made more of them slow, elsewhere; these two are there in any case.
    let named: Vec<_> = named.into_iter().filter(|io| io.offset_bytes == 4096).collect();
    assert_eq!(named.len(), 2, "block 1 was read twice: {slow_ones:?}");
    for (io, position) in named.into_iter().zip([1, 5]) {
        assert!(io.ok && io.bytes == 4096 && io.kind == OpKind::Read && io.requests == 1);
        assert_eq!(io.batch_position, position, "as many stood before it in its batch");
    }
}

#[test]
fn a_stalled_reactor_is_found_in_the_pick_up() {
    let mut rig = Rig::new(Driver::new(64, 8192, true, 0), &*malloc());
    rig.poll();
    submit(&mut rig, WRITE, 0, 512);
    sleep(5 * LATENCY);
    rig.drain();
    let writes = rig.board.snapshot().of_kind(OpKind::Write);
    assert_eq!(writes.ios, 1);
    assert!(stage(&writes, Stage::PickUp) >= 10 * MS * 99 / 100, "{} ns", stage(&writes, Stage::PickUp));
    assert!(stage(&writes, Stage::Bdev) < stage(&writes, Stage::PickUp), "the block device is not to blame");
}

#[test]
fn stages_add_up_to_totals_and_sizes_are_told_apart() {
    let rule = Rule { per_million: 300_000, seed: 3, ..Rule::default() };
    let some_later = Delay::new("s0", rule, Duration::from_micros(50), malloc()).unwrap();
    let mut rig = Rig::new(Driver::new(64, 128 << 10, true, 0), &some_later);
    let sizes = [512, 4096, 8192, 65_536, 512, 4096, 4096, 100 << 10];
    for round in 0..40u64 {
        for (lane, &len_bytes) in sizes.iter().enumerate() {
            let kind = if (round + lane as u64).is_multiple_of(3) { WRITE } else { READ };
            submit(&mut rig, kind, lane as u64 * 256, len_bytes);
        }
        rig.drain();
    }
    let snapshot = rig.board.snapshot();
    let mut seen = 0;
    for op in &snapshot.ops {
        let sum: u64 = op.stages.iter().map(|stage| stage.sum_ns).sum();
        assert_eq!(sum, op.total.sum_ns, "{:?} {:?}", op.kind, op.class);
        assert_eq!(op.total.count(), op.ios);
        for of_all in [Stage::PickUp, Stage::Submit, Stage::Bdev, Stage::Return] {
            assert_eq!(op.stages[of_all as usize].count(), op.ios, "{of_all:?}");
        }
        seen += op.ios;
    }
    assert_eq!((seen, snapshot.requests), (320, 320));
    let of =
        |class| -> u64 { snapshot.ops.iter().filter(|op| op.class == Some(class)).map(|op| op.ios).sum() };
    assert_eq!([of(SizeClass::To512), of(SizeClass::To4KiB), of(SizeClass::To16KiB)], [80, 120, 40]);
    assert_eq!([of(SizeClass::To64KiB), of(SizeClass::To256KiB), of(SizeClass::Larger)], [40, 40, 0]);
}
