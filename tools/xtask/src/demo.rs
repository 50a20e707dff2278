//! `cargo xtask demo`, `cargo xtask lab bench` and `bench-restart`: scenarios that are run for what they show.

use crate::cargo_tools;
use crate::error::{Error, Result};
use crate::lab::{Lab, Report, Verdict};
use crate::packages::Packages;
use crate::workspace::Workspace;
use labvm::scenarios;
use std::fs;

const RUBLK_VERSION: &str = "0.2.15";
/// What a repeat of the comparison costs besides measuring: four set-ups, eight starts of fio.
const REPEAT_OVERHEAD_S: u64 = 60;
/// What a repeat of the comparison of restarts takes at most: five daemons started, killed, started and stopped.
const RESTARTS_S: u64 = 60;
/// Measurements of a repeat: four targets at two depths.
const MEASUREMENTS: u64 = 8;

/// Where fio runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Beside spinblk, in the lab's machine.
    Host,
    /// In a container there.
    Container,
    /// In the lab's machine, with spinblk outside.
    VirtualMachine,
}

/// A disk of spinblk under fio.
pub(crate) fn demo(place: Place) -> Result<Report> {
    let workspace = Workspace::find()?;
    let lab = Lab::prepare(&workspace, true)?;
    eprintln!("  boot  {}", lab.describe());
    match place {
        Place::Host => show(&lab, "demo", None),
        Place::Container => show(&lab, "demo-container", None),
        Place::VirtualMachine => {
            let report = show(&lab, "demo-vm", None)?;
            if report.verdict != Verdict::Passed {
                return Ok(report);
            }
            let log = workspace.results().join("demo-vm/spinblk-1.log");
            let text = fs::read_to_string(&log).map_err(Error::file("read", &log))?;
            println!("spinblk, at its end:\n{}", last_words(&text));
            Ok(report)
        }
    }
}

/// What spinblk said after it was asked to stop.
fn last_words(log: &str) -> &str {
    log.split_once(": stopping\n").map_or(log, |(_, end)| end)
}

/// The comparison with other daemons.
pub(crate) fn bench(repeats: u32, runtime_s: u32) -> Result<Report> {
    let workspace = Workspace::find()?;
    Packages::new(&workspace)?.ensure_libclang()?;
    let rublk = cargo_tools::install(&workspace, "rublk", RUBLK_VERSION, &["--no-default-features"])?;
    let mut lab = Lab::prepare(&workspace, true)?;
    lab.programs.push(rublk);
    lab.settings.insert("repeats".to_owned(), repeats.to_string());
    lab.settings.insert("runtime_s".to_owned(), runtime_s.to_string());
    let repeat_s = MEASUREMENTS * (u64::from(runtime_s) + 2) + REPEAT_OVERHEAD_S;
    let report = show(&lab, "bench", Some(u64::from(repeats) * repeat_s + REPEAT_OVERHEAD_S))?;
    if report.verdict == Verdict::Passed {
        eprintln!("  done  {}", workspace.results().join("bench/bench.json").display());
    }
    Ok(report)
}

/// The comparison of restarts after a kill.
pub(crate) fn bench_restart(repeats: u32) -> Result<Report> {
    let workspace = Workspace::find()?;
    let mut lab = Lab::prepare(&workspace, true)?;
    lab.settings.insert("repeats".to_owned(), repeats.to_string());
    let report = show(&lab, "bench-restart", Some(u64::from(repeats) * RESTARTS_S + REPEAT_OVERHEAD_S))?;
    if report.verdict == Verdict::Passed {
        eprintln!("  done  {}", workspace.results().join("bench-restart/bench-restart.json").display());
    }
    Ok(report)
}

fn show(lab: &Lab, name: &str, bound_s: Option<u64>) -> Result<Report> {
    let missing = || Error::Lab(format!("no scenario is named {name}"));
    let scenario = scenarios::find(name).ok_or_else(missing)?;
    lab.run(&[scenario], bound_s)?.pop().ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::last_words;

    #[test]
    fn the_end_of_a_log_is_what_follows_the_signal() {
        assert_eq!(last_words("d0: ...\nready\nSIGTERM: stopping\nd0 (x)\n"), "d0 (x)\n");
        assert_eq!(last_words("nothing of the kind"), "nothing of the kind");
    }
}
