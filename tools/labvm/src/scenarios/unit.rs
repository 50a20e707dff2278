//! spinblk with the rights that its unit file leaves to root, and no others.

use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::spinblk::{Daemon, Disk};
use crate::vdpa;

/// The unit that is given to users.
const UNIT: &str = include_str!("../../../../deploy/spinblk.service");

/// A disk is attached, its bounce region set and registered, used, and taken down.
pub(super) fn run(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let runner = Cmd::new("setpriv").args(["--no-new-privs", "--bounding-set", &bounding_set()?]);
    let daemon =
        Daemon::start_under(lab, runner, "1", &[Disk::malloc("d0", 64).set("bounce-size", "32MiB")])?;
    let device = vdpa::block_device("d0")?;
    FioJob::new("unit", &device, "randwrite", "4k-64k").depth(16).jobs(1, 32).verify().run(lab)?;
    let locked = daemon.locked_memory();
    ensure!(!matches!(locked.as_str(), "" | "0 kB"), "spinblk has locked {locked:?} of its memory");
    let report = daemon.stop()?;
    ensure!(report.disk("d0")?.umem, "no umem: the bounce region could not be pinned");
    lab.say("served with the unit's capabilities alone, memory locked, umem");
    Ok(())
}

/// The unit's capabilities as setpriv wants them: `-all,+net_admin,...`.
fn bounding_set() -> Result<String, Fail> {
    let names = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let missing = || Fail::Check("the unit file has no CapabilityBoundingSet".to_owned());
    let names = names.ok_or_else(missing)?.split_whitespace();
    let kept: String = names.map(|name| format!(",+{}", name.trim_start_matches("CAP_"))).collect();
    Ok(format!("-all{}", kept.to_lowercase()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn capabilities_are_written_as_setpriv_reads_them() {
        let set = super::bounding_set().unwrap();
        assert!(set.starts_with("-all,+net_admin,+") && !set.contains("cap_"), "{set}");
    }
}
