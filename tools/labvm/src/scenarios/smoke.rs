//! The lab checks itself: kernel, modules, VDUSE, the vDPA bus and fio work, with a daemon known to be good.

use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::qsd::{Export, Qsd};

pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let (qsd, device) = Qsd::serve(lab, &Export::null("smoke0", 1024).queues(2, 128))?;
    lab.say(&format!("qemu-storage-daemon serves {}", device.display()));
    let result = FioJob::new("smoke", &device, "randread", "4k").depth(32).seconds(2).run(lab)?;
    lab.say(&format!("fio: {:.0} IOPS, p50 {} us", result.read.iops, result.read.percentile_ns(50.0) / 1000));
    ensure!(result.read.total_ios > 100, "fio completed only {} reads in 2 s", result.read.total_ios);
    qsd.stop()
}
