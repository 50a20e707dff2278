//! PID 1 of the guest: prepares the machine, runs the plan, watches over it, brings the results home, resets.
//!
//! Nothing here may block for ever. Scenarios are children, so that a panic or a process stuck in the kernel
//! cannot take init with it, and the end is a reset by sysrq: an orderly power-off waits behind stuck tasks.

mod mounts;
mod supervise;

use crate::command::Cmd;
use crate::fail::Fail;
use crate::lab::read_plan;
use crate::protocol::{Event, Mode, Plan};
use crate::results::{Events, OUT_DIR, send_files};
use crate::state::text_of;
use std::time::{Duration, Instant};
use supervise::{Supervisor, Verdict};

/// Everything that PID 1 does, from mounting proc to the reset.
pub fn main() {
    if let Err(fail) = boot_and_run() {
        // The console may not be set up yet, the kernel's log always is.
        let _ = std::fs::write("/dev/kmsg", format!("labvm: {fail}\n"));
        println!("labvm: {fail}");
    }
    reset();
}

fn boot_and_run() -> Result<(), Fail> {
    let started = Instant::now();
    mounts::prepare()?;
    let plan = read_plan()?;
    let mut events = Events::open()?;
    events.send(&Event::Booted { uptime_s: uptime_s() });
    match plan.mode {
        Mode::Probe => {}
        Mode::Run => run_plan(&plan, started, &mut events),
        Mode::Shell => supervise::shell()?,
    }
    events.send(&Event::Done);
    let _ = std::fs::write(format!("{OUT_DIR}/dmesg.txt"), Cmd::new("dmesg").run().unwrap_or_default());
    if plan.mode != Mode::Probe {
        send_files()?;
    }
    Ok(())
}

fn run_plan(plan: &Plan, started: Instant, events: &mut Events) {
    let supervisor = Supervisor::new(started + Duration::from_secs(plan.limit_s));
    for planned in &plan.scenarios {
        events.send(&Event::Started { name: planned.name.clone() });
        let Verdict { outcome, seconds, message, dirt } = supervisor.run(planned);
        events.send(&Event::Finished { name: planned.name.clone(), outcome, seconds, message });
        if let Some(reason) = dirt {
            events.send(&Event::Dirty { reason });
            return;
        }
    }
}

fn uptime_s() -> f64 {
    text_of("/proc/uptime").split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0)
}

fn reset() {
    // Lets the virtio-serial ports drain; there is nothing to sync.
    std::thread::sleep(Duration::from_millis(100));
    let _ = std::fs::write("/proc/sysrq-trigger", "b");
    std::thread::sleep(Duration::from_secs(5));
}
