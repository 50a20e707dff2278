//! One look at a daemon: all its answers that the screen is made from.

use std::collections::BTreeMap;
use std::time::Instant;

use spinblk_perf::Latency;

use crate::Error;
use crate::api::{self, Client, Latencies, NoParams, ReadAt};

/// The answers.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When the counters were read.
    pub(super) at: ReadAt,
    pub(super) disks: Vec<api::DiskInfo>,
    pub(super) stats: Vec<api::DiskStats>,
    /// By disk and queue.
    pub(super) times: BTreeMap<(String, u16), Times>,
    pub(super) reactors: Vec<api::ReactorInfo>,
    /// The latest first.
    pub(super) slow: Vec<api::SlowRecord>,
}

/// What requests took, all kinds and sizes together.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    pub(super) total: Latency,
    /// In the order of [`spinblk_perf::Stage::ALL`].
    pub(super) stages: [Latency; 5],
}

impl Times {
    pub(super) fn merge(&mut self, other: &Self) {
        self.total.merge(&other.total);
        self.stages.iter_mut().zip(&other.stages).for_each(|(mine, theirs)| mine.merge(theirs));
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        let stages = std::array::from_fn(|stage| self.stages[stage].since(&earlier.stages[stage]));
        Self { total: self.total.since(&earlier.total), stages }
    }
}

impl Sample {
    /// Asks the daemon.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub(super) fn read(client: &mut Client) -> Result<Self, Error> {
        let none = NoParams {};
        let sent = Instant::now();
        let stats = client.call::<api::Stats>(&api::StatsParams::default())?;
        let at = ReadAt::now(sent, stats.since_ms);
        let mut times: BTreeMap<(String, u16), Times> = BTreeMap::new();
        for (entry, latency) in Latencies::read(client)?.entries {
            let of_queue = times.entry((entry.disk, entry.queue)).or_default();
            match entry.stage.stage() {
                Some(stage) => of_queue.stages[stage as usize].merge(&latency),
                None => of_queue.total.merge(&latency),
            }
        }
        Ok(Self {
            at,
            disks: client.call::<api::Disks>(&none)?.disks,
            stats: stats.disks,
            times,
            reactors: client.call::<api::Reactors>(&none)?.reactors,
            slow: client.call::<api::Slow>(&api::SlowParams::default())?.records,
        })
    }
}
