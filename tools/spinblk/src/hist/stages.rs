//! Where the time goes: the share of each stage in all requests and in the tail.
//!
//! Stages are recorded each by itself, so nobody can tell which stages the slowest requests spent their time in. What can be
//! told is how long each stage took for the 1 % that were slowest in that stage. The sum of these is at least the
//! tail of the total, and the same where one stage makes requests slow, which is the case that matters.

use hdrhistogram::Histogram;
use serde::Serialize;
use spinblk_perf::Stage;

use super::recording::Op;
use super::stats::{sum_ns, tail_count, tail_sum_ns};

/// A stage's part.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StageShare {
    /// Its name.
    pub stage: &'static str,
    /// Time in it, over all requests, also those that skipped it.
    pub mean_ns: f64,
    /// Its percentage of the mean of all stages.
    pub mean_percent: f64,
    /// Time in it, over the slowest 1 % in it.
    pub tail_ns: f64,
    /// Its percentage of the tails of all stages.
    pub tail_percent: f64,
}

/// Each stage's part of `op`; `None` where the source does not tell stages, or nothing took any time.
pub(super) fn shares(op: &Op) -> Option<[StageShare; 5]> {
    let stages = op.stages.as_ref()?;
    let requests = op.total.len();
    let tail = tail_count(requests);
    let means = each(stages, |stage| sum_ns(stage) / requests.max(1) as f64);
    let tails = each(stages, |stage| tail_sum_ns(stage, tail) / tail.max(1) as f64);
    let (all, all_tails): (f64, f64) = (means.iter().sum(), tails.iter().sum());
    (all > 0.0 && all_tails > 0.0).then(|| {
        std::array::from_fn(|index| StageShare {
            stage: Stage::ALL[index].name(),
            mean_ns: means[index],
            mean_percent: 100.0 * means[index] / all,
            tail_ns: tails[index],
            tail_percent: 100.0 * tails[index] / all_tails,
        })
    })
}

fn each(stages: &[Histogram<u64>; 5], measure: impl Fn(&Histogram<u64>) -> f64) -> [f64; 5] {
    std::array::from_fn(|index| measure(&stages[index]))
}

/// The stage that matters most, in one line.
pub(super) fn verdict(shares: &[StageShare; 5]) -> String {
    let most = |percent: fn(&StageShare) -> f64| {
        let stage = shares.iter().max_by(|a, b| percent(a).total_cmp(&percent(b))).unwrap_or(&shares[0]);
        format!("{:.0} % of the time in {}", percent(stage), stage.stage)
    };
    format!("p99: {}; mean: {}", most(|share| share.tail_percent), most(|share| share.mean_percent))
}
