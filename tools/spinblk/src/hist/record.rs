//! `hist record`: asks a daemon again and again and writes what it did in each interval.

use std::time::{Instant, SystemTime};

use spinblk_perf::{Latency, OpKind, SizeClass};

use super::args::RecordArgs;
use super::{DeltaLog, Tag};
use crate::Error;
use crate::api::{Client, HistogramEntry, Latencies, StageName};
use crate::signals::Signals;

/// Records; tells what it wrote.
pub(super) fn record(args: &RecordArgs) -> Result<String, Error> {
    let signals = Signals::block()?;
    let mut client = Client::connect(&args.socket)?;
    let mut before = Latencies::read(&mut client)?;
    let mut log = DeltaLog::create(&args.output)?;
    let began = Instant::now();
    let (mut at, mut intervals) = (before.at, 0u64);
    log.begin(SystemTime::now(), tagged(std::mem::take(&mut before.entries), args.stages)?);
    loop {
        // Steps are counted from the beginning, so that they do not drift.
        let steps = args.interval.saturating_mul(u32::try_from(intervals + 1).unwrap_or(u32::MAX));
        let until = args.duration.map_or(steps, |duration| steps.min(duration));
        let stopped = signals.wait(until.saturating_sub(began.elapsed()))?.is_some();
        let now = Latencies::read(&mut client)?;
        let reading = tagged(now.entries, args.stages)?;
        if now.at.continues(&at) {
            log.write(SystemTime::now(), reading)?;
        } else {
            log.begin(SystemTime::now(), reading);
        }
        (at, intervals) = (now.at, intervals + 1);
        if stopped || args.duration.is_some_and(|duration| began.elapsed() >= duration) {
            return Ok(format!("{}: {intervals} interval(s)\n", args.output.display()));
        }
    }
}

fn tagged(entries: Vec<(HistogramEntry, Latency)>, stages: bool) -> Result<Vec<(Tag, Latency)>, Error> {
    let wanted = entries.into_iter().filter(|(entry, _)| stages || entry.stage == StageName::Total);
    wanted.map(|(entry, latency)| Ok((tag_of(&entry)?, latency))).collect()
}

/// What a histogram that a daemon tells is of.
pub(super) fn tag_of(entry: &HistogramEntry) -> Result<Tag, Error> {
    let class = entry.class.map(|class| SizeClass::ALL[class as usize]);
    let kind = OpKind::ALL[entry.op as usize];
    let tag = Tag::new(&entry.disk, entry.queue, kind, class, entry.stage.stage());
    tag.ok_or_else(|| Error::DiskName { name: entry.disk.clone() })
}
