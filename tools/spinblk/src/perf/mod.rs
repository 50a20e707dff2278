//! `spinblk perf`: from flags to a run of the load generator, and from its outcome to a report.
//!
//! ```text
//!   args ──► Job, Target ──► spinblk_load::run ──► report ──► text, JSON
//!                                 │ watch: stop signals, live line, hist_log
//! ```

mod args;
mod hist_log;
mod live;
mod report;

use std::io::Write;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use spinblk_load::{BdevTarget, Job, Outcome, Phase, RingFormat, RingOptions, Target, VhostUser, VhostVdpa};
use spinblk_reactor::Hugepages;

pub use args::PerfArgs;
pub(crate) use args::{PERF_EXAMPLES, PERF_HELP};
pub use report::{Report, Ring};

use crate::backend::Making;
use crate::cores::Cores;
use crate::report::{check_writable, write_json};
use crate::signals::Signals;
use crate::{Error, backend};
use args::TargetArg;
use hist_log::HistLog;
use live::Live;

/// Runs the load that `args` describe and prints what it found.
///
/// # Errors
/// Those of the configuration and of the load generator; [`Error::Unclean`] when requests failed or contents were wrong.
pub fn perf(args: &PerfArgs) -> Result<(), Error> {
    let (mut job, target) = args.to_job()?;
    job.interval = args.hist_log.as_ref().map(|_| hist_log::INTERVAL);
    if let Some(path) = &args.json {
        check_writable(path)?;
    }
    // Two pollers on one core would each look half as fast as they are.
    let _cores = Cores::claim(&job.cores)?;
    let format = args.format(&target);
    let options = RingOptions {
        queues: job.queues,
        depth: job.depth,
        block_bytes: job.block_bytes,
        format: format.unwrap_or_default(),
        indirect: args.indirect,
        event_idx: !args.no_event_idx,
    };
    match target {
        TargetArg::Bdev(stack) => {
            let bdev = backend::open(&stack.top, stack.read_only, Making::Really(Hugepages::Try))?.bdev;
            run(args, &job, format, &BdevTarget::new(bdev, Hugepages::Try))
        }
        TargetArg::VhostUser(path) => run(args, &job, format, &VhostUser::connect(&path, options)?),
        TargetArg::VhostVdpa(path) => run(args, &job, format, &VhostVdpa::open(&path, options)?),
    }
}

fn run<T: Target>(args: &PerfArgs, job: &Job, format: Option<RingFormat>, target: &T) -> Result<(), Error> {
    let mut log = args.hist_log.as_deref().map(HistLog::create).transpose()?;
    let outcome = watched(args, job, target, log.as_mut())?;
    let ring = format.map(|format| Ring { format: format.name(), indirect: args.indirect });
    let report = Report::new(&args.target, args.rw.name(), job, ring, target.geometry(), &outcome);
    // A reader that has gone away (`| head`) is no failure.
    let _ = write!(std::io::stdout(), "{report}");
    if let Some(path) = &args.json {
        write_json(&report, path)?;
    }
    if let Some(log) = log {
        log.finish()?;
    }
    report.complaint().map_or(Ok(()), |complaint| Err(Error::Unclean(complaint)))
}

/// Runs the job; a stop signal ends it early.
fn watched<T: Target>(
    args: &PerfArgs,
    job: &Job,
    target: &T,
    mut log: Option<&mut HistLog>,
) -> Result<Outcome, Error> {
    let signals = Signals::block()?;
    let mut live = args.progress.then(|| Live::new(job));
    // When measuring began, as near as it was looked at.
    let mut began = SystemTime::now();
    let outcome = spinblk_load::run(job, target, &mut |progress| {
        if matches!(progress.phase, Phase::Start | Phase::Fill | Phase::WarmUp) {
            began = SystemTime::now();
        }
        if let Some(log) = &mut log {
            log.write(progress.intervals, began);
        }
        if let Some(live) = &mut live {
            live.show(progress);
        }
        match signals.wait(Duration::ZERO) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(_)) | Err(_) => ControlFlow::Break(()),
        }
    });
    if let Some(live) = live {
        live.clear();
    }
    Ok(outcome?)
}
