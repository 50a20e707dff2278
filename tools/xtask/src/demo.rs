//! `cargo xtask demo` and `cargo xtask lab bench`: scenarios that are run for what they show.

use crate::cargo_tools;
use crate::error::{Error, Result};
use crate::lab::{Lab, Report, Verdict};
use crate::packages::Packages;
use crate::workspace::Workspace;
use labvm::scenarios;

const RUBLK_VERSION: &str = "0.2.15";
/// What a repeat of the comparison costs besides measuring: four set-ups, eight starts of fio.
const REPEAT_OVERHEAD_S: u64 = 60;
/// Measurements of a repeat: four targets at two depths.
const MEASUREMENTS: u64 = 8;

/// A disk of spinblk under fio.
pub(crate) fn demo() -> Result<Report> {
    let lab = Lab::prepare(&Workspace::find()?, true)?;
    eprintln!("  boot  {}", lab.describe());
    show(&lab, "demo", None)
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

fn show(lab: &Lab, name: &str, bound_s: Option<u64>) -> Result<Report> {
    let missing = || Error::Lab(format!("no scenario is named {name}"));
    let scenario = scenarios::find(name).ok_or_else(missing)?;
    lab.run(&[scenario], bound_s)?.pop().ok_or_else(missing)
}
