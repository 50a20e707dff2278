//! The test of the block devices' contract, on targets that only a kernel of one's own has.

use crate::block::attribute;
use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::loop_device::Loop;
use crate::null_blk::NullBlk;
use crate::protocol::CONFORMANCE;
use std::path::Path;

/// The one test of it that takes the block device in this variable.
const TEST: &str = "the_target_given_does_many_operations_right";
const VARIABLE: &str = "SPINBLK_TEST_BLOCK_DEVICE";
const SIZE_MIB: u64 = 1;
const TEST_LIMIT_S: u64 = 280;

/// A block device of the kernel's memory.
pub(super) fn null_blk(lab: &mut Lab) -> Result<(), Fail> {
    let device = NullBlk::with_memory(lab, "target", SIZE_MIB)?;
    conforms(lab, device.path())
}

/// A loop device over a file: what is discarded or zeroed there becomes holes in the file.
pub(super) fn loop_device(lab: &mut Lab) -> Result<(), Fail> {
    let device = Loop::create(lab, Path::new("/tmp"), "target.img", SIZE_MIB << 20)?;
    let direct = attribute(device.path(), "loop/dio");
    ensure!(direct == "1", "{} does not use O_DIRECT on its file", device.path().display());
    conforms(lab, device.path())
}

/// A block device with a poll queue.
pub(super) fn polled(lab: &mut Lab) -> Result<(), Fail> {
    let device = NullBlk::polled(lab, "target", SIZE_MIB)?;
    let polls = attribute(device.path(), "queue/io_poll");
    ensure!(polls == "1", "{} has no poll queue", device.path().display());
    conforms(lab, device.path())
}

fn conforms(lab: &Lab, device: &Path) -> Result<(), Fail> {
    let given = format!("{VARIABLE}={}", device.display());
    let test = Cmd::new("env").args([&given, CONFORMANCE, "--exact", TEST, "--nocapture"]);
    let text = test.limit_s(TEST_LIMIT_S).run()?;
    ensure!(text.contains("1 passed"), "{CONFORMANCE} has no test {TEST}:\n{text}");
    lab.save(&format!("{CONFORMANCE}.txt"), &text)?;
    let said = text.lines().find(|line| line.contains("O_DIRECT")).unwrap_or_default();
    lab.say(&format!("{} conforms: {said}", device.display()));
    Ok(())
}
