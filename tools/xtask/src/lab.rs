//! The lab: from the names of scenarios to their outcomes. It brings together packages, kernel, programs and
//! machine, boots as often as it must, and keeps the results.

mod build;
mod contents;

use crate::accel;
use crate::error::{Error, Result};
use crate::initramfs::{self, Contents, Extras};
use crate::kernel::{self, Kernel};
use crate::outcome::reports;
use crate::packages::{LAB, Packages};
use crate::process::{command, output};
use crate::progress::step;
use crate::rig::Rig;
use crate::vm::{Accel, Console, Ending, Machine};
use crate::workspace::{Workspace, make_dir};
use labvm::protocol::{Event, GUEST_MARGIN_S, Mode, Plan, Planned};
use labvm::scenarios::Scenario;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use crate::outcome::{Report, Verdict};

const UNPACK_LIMIT_S: u64 = 60;
/// From QEMU's start to the first scenario, on a busy host without KVM.
const BOOT_LIMIT_S: u64 = 60;
const SHELL_LIMIT_S: u64 = 24 * 3600;
/// CPUs of a shell's machine.
const SHELL_VCPUS: u32 = 2;

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
        let built = build::programs(workspace, with_spinblk)?;
        let labvm = built.join("labvm");
        let accel = accel::choose(workspace, &kernel, &base, &labvm)?;
        let programs = with_spinblk.then(|| built.join("spinblk")).into_iter().collect();
        let settings = BTreeMap::from([("accel".to_owned(), accel.name().to_owned())]);
        Ok(Lab { workspace: workspace.clone(), kernel, base, labvm, programs, settings, keep: false, accel })
    }

    /// Runs scenarios, in as few boots as they allow; `bound_s` replaces their own bounds.
    pub(crate) fn run(&self, scenarios: &[&Scenario], bound_s: Option<u64>) -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        let mut left = scenarios.to_vec();
        while let Some((first, rest)) = left.split_first() {
            let (mut batch, other): (Vec<&Scenario>, Vec<&Scenario>) =
                rest.iter().partition(|scenario| scenario.shares_machine_with(first));
            batch.insert(0, first);
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
        empty(&folder)?;
        let mut contents = contents::wanted(&self.workspace, &self.kernel, batch)?;
        contents.programs.extend(self.programs.iter().cloned());
        let mut rig = match self.rig(batch[0], &folder) {
            Ok(rig) => rig,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // The scenario's subject does not even start.
            Err(error) => return Ok(vec![Report::failed_on_host(batch[0].name, &error)]),
        };
        let ending = self.start(&plan, &contents, &folder, batch[0].vcpus, Console::Live, rig.as_mut())?;
        let tar = folder.join("files.tar");
        if fs::metadata(&tar).is_ok_and(|metadata| metadata.len() > 0) {
            let results = self.workspace.results();
            let unpack = command("tar", [Path::new("-xf"), &tar, Path::new("-C"), &results]);
            // An archive cut short has lost its last file only.
            let _ = output(unpack, UNPACK_LIMIT_S);
            let _ = fs::rename(results.join("dmesg.txt"), folder.join("dmesg.txt"));
        }
        let _ = fs::remove_file(&tar);
        let mut reports = reports(batch, &ending);
        if let Some(rig) = rig {
            let boots = ending.events.iter().filter(|event| matches!(event, Event::Booted { .. })).count();
            match rig.finish(boots) {
                Ok(done) => println!("== {}: {done}", batch[0].name),
                Err(error) => reports.iter_mut().for_each(|report| report.fail_on_host(&error)),
            }
        }
        Ok(reports)
    }

    /// The hardware that a scenario wants from the host.
    fn rig(&self, scenario: &Scenario, folder: &Path) -> Result<Option<Rig>> {
        let Some(hardware) = scenario.hardware else { return Ok(None) };
        let missing = || Error::Lab(format!("{} needs spinblk, which was not built", scenario.name));
        let spinblk = self.programs.iter().find(|path| path.ends_with("spinblk")).ok_or_else(missing)?;
        let build = || Rig::start(spinblk, hardware, scenario.boots, folder);
        step("get the machine's hardware ready", build).map(Some)
    }

    /// An interactive shell in the guest.
    pub(crate) fn shell(&self) -> Result<()> {
        let plan = Plan {
            mode: Mode::Shell,
            scenarios: Vec::new(),
            limit_s: SHELL_LIMIT_S,
            settings: self.settings.clone(),
        };
        let folder = self.workspace.results().join("shell");
        empty(&folder)?;
        let contents = Contents { programs: self.programs.clone(), files: Vec::new() };
        self.start(&plan, &contents, &folder, SHELL_VCPUS, Console::Terminal, None).map(drop)
    }

    fn start(
        &self,
        plan: &Plan,
        contents: &Contents,
        folder: &Path,
        vcpus: u32,
        console: Console,
        rig: Option<&mut Rig>,
    ) -> Result<Ending> {
        let work = tempfile::Builder::new()
            .prefix("boot-")
            .disable_cleanup(self.keep)
            .tempdir_in(&self.workspace.cache)
            .map_err(Error::file("create a folder in", &self.workspace.cache))?;
        let initrd = work.path().join("initrd");
        initramfs::image(&self.base, &Extras { labvm: &self.labvm, contents, plan }, &initrd)?;
        if self.keep {
            eprintln!("  kept  {}", initrd.display());
        }
        let kernel = &self.kernel.image;
        // The guest counts anew after a reboot.
        let boots = rig.as_ref().map_or(1, |rig| rig.boots());
        let limit_s = plan.limit_s * u64::from(boots) + GUEST_MARGIN_S;
        Machine { accel: self.accel, vcpus, kernel, initrd: &initrd, folder, console, limit_s }.run(rig)
    }

    /// Which kernel and accelerator the guest has, in words.
    pub(crate) fn describe(&self) -> String {
        format!("Linux {} under {}", self.kernel.release, self.accel.name())
    }
}

/// Builds spinblk as the lab has it, optimised and quick to build; gives its path.
pub(crate) fn spinblk(workspace: &Workspace) -> Result<PathBuf> {
    Ok(build::programs(workspace, true)?.join("spinblk"))
}

/// Makes a folder without anything in it.
fn empty(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    make_dir(folder)
}
