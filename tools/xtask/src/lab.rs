//! The lab: from the names of scenarios to their outcomes. It brings together packages, kernel, programs and
//! machine, boots as often as it must, and keeps the results.

use crate::accel;
use crate::error::{Error, Result};
use crate::initramfs::{self, Extras};
use crate::kernel::{self, Kernel};
use crate::packages::{LAB, Packages};
use crate::process::{command, output, run_logged};
use crate::progress::step;
use crate::vm::{Accel, Console, Ending, Machine};
use crate::workspace::{Workspace, make_dir};
use labvm::protocol::{Event, GUEST_MARGIN_S, Mode, Outcome, Plan, Planned};
use labvm::scenarios::Scenario;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const BUILD_LIMIT_S: u64 = 1800;
const UNPACK_LIMIT_S: u64 = 60;
/// From QEMU's start to the first scenario, on a busy host without KVM.
const BOOT_LIMIT_S: u64 = 60;
const SHELL_LIMIT_S: u64 = 24 * 3600;
/// CPUs of a shell's machine.
const SHELL_VCPUS: u32 = 2;

/// How one scenario went, as the host tells it.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    TimedOut,
    GuestDied,
}

impl Verdict {
    /// The exit status that stands for it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Failed => 1,
            Verdict::TimedOut => 124,
            Verdict::GuestDied => 125,
        }
    }
}

/// Everything that is needed to boot.
pub(crate) struct Lab {
    workspace: Workspace,
    kernel: Kernel,
    base: PathBuf,
    labvm: PathBuf,
    /// More programs for the guest, by path.
    pub(crate) programs: Vec<PathBuf>,
    /// Values for the scenarios.
    pub(crate) settings: BTreeMap<String, String>,
    /// Keep the machine's initrd for a look at it.
    pub(crate) keep: bool,
    pub(crate) accel: Accel,
}

impl Lab {
    /// Gets everything ready; `with_spinblk` builds it and puts it into the guest.
    pub(crate) fn prepare(workspace: &Workspace, with_spinblk: bool) -> Result<Lab> {
        let packages = Packages::new(workspace)?;
        packages.ensure(LAB)?;
        let kernel = kernel::prepare(workspace, &packages)?;
        let base = initramfs::base(workspace, &kernel)?;
        let built = build(workspace, with_spinblk)?;
        let labvm = built.join("labvm");
        let accel = accel::choose(workspace, &kernel, &base, &labvm)?;
        let programs = with_spinblk.then(|| built.join("spinblk")).into_iter().collect();
        let mut settings = BTreeMap::new();
        settings.insert("accel".to_owned(), accel.name().to_owned());
        Ok(Lab { workspace: workspace.clone(), kernel, base, labvm, programs, settings, keep: false, accel })
    }

    /// Runs scenarios, in as few boots as they allow; `bound_s` replaces their own bounds.
    pub(crate) fn run(&self, scenarios: &[&Scenario], bound_s: Option<u64>) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        let mut left = scenarios.to_vec();
        while let Some(first) = left.first() {
            let vcpus = first.vcpus;
            let (batch, other): (Vec<&Scenario>, Vec<&Scenario>) =
                left.iter().partition(|s| s.vcpus == vcpus);
            let done = self.boot(&batch, bound_s)?;
            left = batch[done.len()..].iter().copied().chain(other).collect();
            reports.extend(done);
        }
        Ok(reports)
    }

    /// One boot; gives a report for the first of the batch at least, and for as many as could run.
    fn boot(&self, batch: &[&Scenario], bound_s: Option<u64>) -> Result<Vec<Report>> {
        let planned: Vec<Planned> = batch
            .iter()
            .map(|scenario| Planned {
                name: scenario.name.to_owned(),
                bound_s: bound_s.unwrap_or(scenario.bound_s),
            })
            .collect();
        let limit_s = planned.iter().map(|scenario| scenario.bound_s).sum::<u64>() + BOOT_LIMIT_S;
        let plan = Plan { mode: Mode::Run, scenarios: planned, limit_s, settings: self.settings.clone() };
        let folder = self.workspace.results().join(match batch {
            [only] => only.name.to_owned(),
            many => format!("{}-and-{}-more", many[0].name, many.len() - 1),
        });
        for scenario in batch {
            let _ = fs::remove_dir_all(self.workspace.results().join(scenario.name));
        }
        let ending = self.start(&plan, &folder, batch[0].vcpus, Console::Live)?;
        let tar = folder.join("files.tar");
        if fs::metadata(&tar).is_ok_and(|metadata| metadata.len() > 0) {
            let results = self.workspace.results();
            let unpack = command("tar", [Path::new("-xf"), &tar, Path::new("-C"), &results]);
            // An archive cut short has lost its last file only.
            let _ = output(unpack, UNPACK_LIMIT_S);
            let _ = fs::rename(results.join("dmesg.txt"), folder.join("dmesg.txt"));
        }
        let _ = fs::remove_file(&tar);
        Ok(reports(batch, &ending))
    }

    /// An interactive shell in the guest.
    pub(crate) fn shell(&self) -> Result<()> {
        let plan = Plan {
            mode: Mode::Shell,
            scenarios: Vec::new(),
            limit_s: SHELL_LIMIT_S,
            settings: self.settings.clone(),
        };
        self.start(&plan, &self.workspace.results().join("shell"), SHELL_VCPUS, Console::Terminal).map(drop)
    }

    fn start(&self, plan: &Plan, folder: &Path, vcpus: u32, console: Console) -> Result<Ending> {
        let _ = fs::remove_dir_all(folder);
        make_dir(folder)?;
        let work = tempfile::Builder::new()
            .prefix("boot-")
            .disable_cleanup(self.keep)
            .tempdir_in(&self.workspace.cache)
            .map_err(Error::file("create a folder in", &self.workspace.cache))?;
        let initrd = work.path().join("initrd");
        initramfs::image(
            &self.base,
            &Extras { labvm: &self.labvm, programs: &self.programs, plan },
            &initrd,
        )?;
        if self.keep {
            eprintln!("  kept  {}", initrd.display());
        }
        let kernel = &self.kernel.image;
        let limit_s = plan.limit_s + GUEST_MARGIN_S;
        Machine { accel: self.accel, vcpus, kernel, initrd: &initrd, folder, console, limit_s }.run()
    }

    /// Which kernel and accelerator the guest has, in words.
    pub(crate) fn describe(&self) -> String {
        format!("Linux {} under {}", self.kernel.release, self.accel.name())
    }
}

/// Builds the guest's programs; gives the folder that they are in.
fn build(workspace: &Workspace, with_spinblk: bool) -> Result<PathBuf> {
    let mut cargo = command("cargo", ["build", "--quiet", "--profile=lab", "-p", "labvm"]);
    if with_spinblk {
        cargo.args(["-p", "spinblk"]);
    }
    let target = workspace.lab_build();
    cargo.arg("--target-dir").arg(&target).current_dir(&workspace.root);
    make_dir(&target)?;
    let log = target.join("build.log");
    let _ = fs::remove_file(&log);
    let label = if with_spinblk { "build spinblk and labvm for the lab" } else { "build labvm" };
    step(label, || run_logged(cargo, BUILD_LIMIT_S, &log))?;
    Ok(target.join("lab"))
}

/// What the events say about each scenario; one that started and never ended took the guest with it.
fn reports(batch: &[&Scenario], ending: &Ending) -> Vec<Report> {
    let mut reports: Vec<Report> = ending.events.iter().filter_map(finished).collect();
    let dirty = ending.events.iter().any(|event| matches!(event, Event::Dirty { .. }));
    let left_to_the_next_boot = dirty && !reports.is_empty();
    if reports.len() < batch.len() && !left_to_the_next_boot {
        let verdict = if ending.timed_out { Verdict::TimedOut } else { Verdict::GuestDied };
        let what = if ending.timed_out { "the machine was stopped at its limit" } else { "the guest died" };
        let message = format!("{what}; the last that was heard of it:\n{}", ending.last_words);
        reports.push(Report { name: batch[reports.len()].name.to_owned(), verdict, seconds: 0.0, message });
    }
    reports
}

fn finished(event: &Event) -> Option<Report> {
    let Event::Finished { name, outcome, seconds, message } = event else { return None };
    let verdict = match outcome {
        Outcome::Passed => Verdict::Passed,
        Outcome::Failed => Verdict::Failed,
        Outcome::TimedOut => Verdict::TimedOut,
    };
    Some(Report { name: name.clone(), verdict, seconds: *seconds, message: message.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use labvm::scenarios::TABLE;

    fn ending(events: Vec<Event>, timed_out: bool) -> Ending {
        Ending { events, timed_out, last_words: "Kernel panic".to_owned() }
    }

    fn passed(name: &str) -> Event {
        Event::Finished { name: name.into(), outcome: Outcome::Passed, seconds: 1.0, message: String::new() }
    }

    #[test]
    fn a_guest_that_dies_costs_the_scenario_that_ran() {
        let batch = [&TABLE[0], &TABLE[0]];
        let reports = reports(&batch, &ending(vec![passed("smoke")], false));
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[1].verdict, Verdict::GuestDied);
        assert!(reports[1].message.ends_with("Kernel panic"));
    }

    #[test]
    fn a_dirty_guest_leaves_the_rest_to_the_next_boot() {
        let batch = [&TABLE[0], &TABLE[0]];
        let events = vec![passed("smoke"), Event::Dirty { reason: "x".into() }, Event::Done];
        assert_eq!(reports(&batch, &ending(events, false)).len(), 1);
        assert_eq!(reports(&batch, &ending(Vec::new(), true))[0].verdict, Verdict::TimedOut);
    }
}
