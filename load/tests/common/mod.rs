//! What the tests of this crate share.
#![allow(dead_code, clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use spinblk_load::{Access, Completions, Error, Job, Outcome, Target, run};

/// Random reads of 4 KiB on one queue, for a short time.
pub(crate) fn job() -> Job {
    Job {
        access: Access::Random,
        read_percent: 100,
        block_bytes: 4096,
        depth: 8,
        queues: 1,
        cores: cores(1),
        completions: Completions::Poll,
        warmup: Duration::from_millis(10),
        time: Duration::from_millis(150),
        span_bytes: None,
        interval: None,
        verify: false,
        seed: 1,
    }
}

/// So many cores that this process may use, or as many as there are. Asked anew in each test: `run` moves its caller.
pub(crate) fn cores(count: usize) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(std::process::id().cast_signed())).unwrap();
    let allowed = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap());
    allowed.take(count).collect()
}

/// Runs the job to its end.
pub(crate) fn run_whole<T: Target>(job: &Job, target: &T) -> Result<Outcome, Error> {
    run(job, target, &mut |_| ControlFlow::Continue(()))
}
