//! What a run found out.

use spinblk_perf::OpStats;

/// The results of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// One for each queue, in order.
    pub lanes: Vec<LaneOutcome>,
    /// Whether it was stopped before its time.
    pub stopped_early: bool,
}

/// What one queue did while it was measured.
#[derive(Clone, Debug)]
pub struct LaneOutcome {
    /// Its number.
    pub queue: u16,
    /// The core that polled it.
    pub core: usize,
    /// How long it was measured.
    pub elapsed_ns: u64,
    /// When the last of its intervals began; 0 without intervals.
    pub(crate) last_began_ns: u64,
    /// Its reads.
    pub reads: OpStats,
    /// Its writes.
    pub writes: OpStats,
    /// Polls that found completions, in the measured time.
    pub batches: u64,
    /// Notifications sent to the device, from the beginning.
    pub kicks: u64,
    /// Interrupts from the device, from the beginning.
    pub interrupts: u64,
    /// How often the scheduler took its thread off the core, from the beginning.
    pub involuntary_switches: u64,
    /// The first failed request.
    pub first_fault: Option<String>,
    /// What the check of contents found, if it was asked for.
    pub verify: Option<VerifyCounts>,
}

/// What the check of contents found.
#[derive(Clone, Debug, Default)]
pub struct VerifyCounts {
    /// Blocks stamped and written.
    pub written: u64,
    /// Blocks read whose content was known and was compared.
    pub checked: u64,
    /// Blocks that held something else.
    pub mismatches: u64,
    /// The first of them.
    pub first: Option<String>,
}

impl LaneOutcome {
    /// Reads and writes together.
    #[must_use]
    pub fn all(&self) -> OpStats {
        let mut all = self.reads.clone();
        all.merge(&self.writes);
        all
    }
}

impl Outcome {
    /// Whether every request succeeded and every checked block was right.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let clean = |lane: &LaneOutcome| {
            lane.first_fault.is_none() && lane.verify.as_ref().is_none_or(|verify| verify.mismatches == 0)
        };
        self.lanes.iter().all(clean)
    }
}
