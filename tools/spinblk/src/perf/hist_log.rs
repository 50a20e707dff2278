//! What a load found out, as an interval log.
//!
//! The polling threads give their histograms away when they end: looking at them before would cost them what they
//! measure. So there is one interval, the whole run, for each queue and operation.

use std::time::{Duration, SystemTime};

use spinblk_load::LaneOutcome;
use spinblk_perf::OpKind;

use crate::Error;
use crate::hist::{LogWriter, Tag};

/// The disk's name in the log; the target may have none.
const DISK: &str = "perf";

/// Writes what was done.
pub(super) fn write(mut log: LogWriter, lanes: &[LaneOutcome], began: SystemTime) -> Result<(), Error> {
    for lane in lanes {
        for (kind, stats) in [(OpKind::Read, &lane.reads), (OpKind::Write, &lane.writes)] {
            let tag = Tag::new(DISK, lane.queue, kind, None, None);
            let histogram = stats.histogram().filter(|histogram| !histogram.is_empty());
            if let (Some(tag), Some(histogram)) = (tag, histogram) {
                log.interval(&tag, began, Duration::from_nanos(lane.elapsed_ns), histogram)?;
            }
        }
    }
    log.flush()
}
