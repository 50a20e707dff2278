//! The scenarios, and the table by which the host knows them.

mod bench;
mod bench_restart;
mod change;
mod command_line;
mod conformance;
mod container;
mod content;
mod dataplane;
mod demo;
mod host_disk;
mod interop;
mod kill;
mod kill_vm;
mod latency;
mod lifecycle;
mod power_cut;
mod smoke;
mod stack;
mod systemd_unit;
mod takeover;
mod unit;
mod vdpa_perf;
mod verify;
mod vm_client;
mod vm_guest;

use crate::fail::Fail;
use crate::lab::Lab;
use crate::protocol::{CONFORMANCE, Drives, Hardware, HostDisk, QEMU};

/// One thing that can be run in the lab.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub what: &'static str,
    /// It is stopped after this many seconds (emulated machines are slow).
    pub bound_s: u64,
    /// `xtask test` runs it.
    pub in_test: bool,
    /// How many CPUs its machine has.
    pub vcpus: u32,
    /// Programs that it needs besides those that every machine has.
    pub programs: &'static [&'static str],
    /// What its machine has from the host.
    pub hardware: Option<Hardware>,
    /// How often its machine boots, its own reboots included. The bound is for each of them.
    pub boots: u32,
    pub(crate) run: fn(&mut Lab) -> Result<(), Fail>,
}

impl Scenario {
    const fn new(name: &'static str, what: &'static str, run: fn(&mut Lab) -> Result<(), Fail>) -> Scenario {
        let programs = &["spinblk"];
        Scenario {
            name,
            what,
            bound_s: 180,
            in_test: true,
            vcpus: 2,
            programs,
            hardware: None,
            boots: 1,
            run,
        }
    }

    /// Needs a disk from the host, and so a machine of its own, which may boot more than once.
    const fn disk(self, disk: HostDisk, boots: u32) -> Scenario {
        Scenario { hardware: Some(Hardware::Disk(disk)), boots, ..self }
    }

    /// Needs drives of the host, likewise.
    const fn drives(self, drives: Drives, boots: u32) -> Scenario {
        Scenario { hardware: Some(Hardware::Drives(drives)), boots, ..self }
    }

    /// Whether both can run in the same boot.
    pub fn shares_machine_with(&self, other: &Scenario) -> bool {
        self.vcpus == other.vcpus && self.hardware.is_none() && other.hardware.is_none()
    }

    /// Needs more time.
    const fn bound_s(self, bound_s: u64) -> Scenario {
        Scenario { bound_s, ..self }
    }

    /// Needs more CPUs.
    const fn vcpus(self, vcpus: u32) -> Scenario {
        Scenario { vcpus, ..self }
    }

    /// Needs other programs than spinblk alone.
    const fn programs(self, programs: &'static [&'static str]) -> Scenario {
        Scenario { programs, ..self }
    }

    /// Is no test.
    const fn by_hand(self) -> Scenario {
        Scenario { in_test: false, ..self }
    }
}

/// All scenarios. `refusals` stands first because it starts with VDUSE not loaded.
pub const TABLE: &[Scenario] = &[
    Scenario::new(
        "refusals",
        "impossible requests end in a clear error and leave nothing",
        command_line::refusals,
    ),
    Scenario::new("smoke", "the lab itself: qemu-storage-daemon over VDUSE, read by fio", smoke::run)
        .programs(&[]),
    Scenario::new("config-file", "two disks from a TOML file", command_line::config_file),
    Scenario::new("vhost-vdpa", "a disk on the bus driver for virtual machines", command_line::vhost_vdpa),
    Scenario::new(
        "vhost-vdpa-client",
        "random checked I/O by a driver that we did not write, polling and waiting",
        vm_client::random,
    )
    .bound_s(400),
    Scenario::new(
        "vhost-vdpa-perf",
        "the load generator over vhost-vdpa, split and packed, polled and by interrupt; counts agree",
        vdpa_perf::run,
    )
    .bound_s(300),
    Scenario::new(
        "vhost-vdpa-rebind",
        "from a container to a machine and back, data kept",
        vm_client::rebind,
    )
    .bound_s(300),
    Scenario::new(
        "vhost-vdpa-guest",
        "a virtual machine inside of the lab's has the disk as a vDPA device: fio verify",
        vm_guest::run,
    )
    .programs(&["spinblk", QEMU])
    .bound_s(1000),
    Scenario::new("attributes", "serial, size, queues and cache mode in sysfs", content::attributes),
    Scenario::new("read-only", "a read-only disk is read, and refuses writes", content::read_only),
    Scenario::new("verify-malloc", "mixed sizes with checksums, 4 jobs, on malloc", verify::malloc)
        .bound_s(300),
    Scenario::new("verify-aio-file", "the same on a file, direct I/O", verify::aio_file).bound_s(300),
    Scenario::new("verify-aio-block", "the same on a block device", verify::aio_block).bound_s(300),
    Scenario::new("verify-aio-polled", "the same on a block device with a poll queue", verify::aio_polled)
        .bound_s(300),
    Scenario::new("packed", "packed virtqueues: written, verified, and probed again", verify::packed)
        .bound_s(300),
    Scenario::new("plain-pages", "the same without hugepages", verify::plain_pages).bound_s(300),
    Scenario::new("filesystem", "mkfs, copy, umount, fsck, mount, compare", content::filesystem).bound_s(300),
    Scenario::new(
        "discard-malloc",
        "discard and write-zeroes on malloc read as zeroes",
        content::discard_malloc,
    ),
    Scenario::new("discard-aio", "the same on a block device", content::discard_aio),
    Scenario::new("partitions", "a partition table is seen at probe", content::partitions),
    Scenario::new("two-disks", "two disks at once keep their data apart", verify::two_disks),
    Scenario::new("umem", "bounce pages are ours and go to the ring as registered buffers", dataplane::umem),
    Scenario::new(
        "latency",
        "what is slow on purpose is found by stage and request; counts are fio's",
        latency::run,
    )
    .bound_s(300),
    Scenario::new("idle", "an idle reactor makes no system call", dataplane::idle),
    Scenario::new("bad-sector", "a request to a bad sector fails alone", dataplane::bad_sector),
    Scenario::new("reattach", "20 resets and probes, no growth", lifecycle::reattach),
    Scenario::new("restart", "20 lives of the daemon, nothing left", lifecycle::restart),
    Scenario::new("rebind-under-load", "reset under load, and working again", lifecycle::rebind_under_load)
        .bound_s(300),
    Scenario::new(
        "hot-change",
        "disks come and go on a running spinblk, and their neighbour sees no error",
        change::hot_change,
    )
    .bound_s(300),
    Scenario::new("resize", "a disk grows under load, and the guest uses what is new", change::resize),
    Scenario::new(
        "stop-under-load",
        "SIGTERM under load leaves the kernel clean",
        lifecycle::stop_under_load,
    ),
    Scenario::new("takeover", "a killed daemon's disk goes on under the next one", takeover::run),
    Scenario::new(
        "kill-vduse",
        "kill -9 under load and in starts, 20 times, and fio finds no error",
        kill::split,
    )
    .bound_s(900),
    Scenario::new("kill-vduse-packed", "the same with packed virtqueues", kill::packed).bound_s(600),
    Scenario::new(
        "kill-vhost-vdpa",
        "the same under a machine's driver, which checks what it reads",
        kill_vm::run,
    )
    .bound_s(600),
    Scenario::new(
        "freeze-vhost-vdpa",
        "20 s of SIGSTOP under a machine's driver; SIGTERM under load, restarted, data kept",
        kill_vm::freeze,
    )
    .bound_s(400),
    Scenario::new(
        "restart-under-load",
        "SIGTERM under load, restarted: what was acknowledged and flushed is there",
        lifecycle::restart_under_load,
    )
    .bound_s(300),
    Scenario::new("freeze-vduse", "20 s of SIGSTOP under load; an orderly restart", kill::freeze)
        .bound_s(300),
    Scenario::new(
        "crypto-interop",
        "crypto reads what dm-crypt wrote, and the other way round",
        interop::crypto,
    )
    .bound_s(300),
    Scenario::new(
        "raid0-interop",
        "raid0 reads what an array of mdadm's wrote, and the other way round",
        interop::raid0,
    )
    .programs(&["spinblk", "mdadm"])
    .bound_s(300),
    Scenario::new("stack-vduse", "crypto over raid0 over files: verified, files, restarted", stack::vduse)
        .bound_s(300),
    Scenario::new(
        "conformance-null-blk",
        "the test of the bdev contract on a null_blk device",
        conformance::null_blk,
    )
    .programs(&["spinblk", CONFORMANCE])
    .bound_s(300),
    Scenario::new("conformance-loop", "the same on a loop device", conformance::loop_device)
        .programs(&["spinblk", CONFORMANCE])
        .bound_s(300),
    Scenario::new("conformance-polled", "the same on a device with a poll queue", conformance::polled)
        .programs(&["spinblk", CONFORMANCE])
        .bound_s(300),
    Scenario::new("container", "a disk inside of a container: written, verified, ext4", container::run)
        .programs(&["spinblk", "crun"])
        .bound_s(300),
    Scenario::new("unit-rights", "a disk served with the capabilities of the unit file alone", unit::run),
    Scenario::new(
        "unit-systemd",
        "the unit under systemd: ready, watched, back after a kill and a hang, stopped; fio goes on",
        systemd_unit::run,
    )
    .programs(&["spinblk", "systemd"])
    .bound_s(400),
    Scenario::new("two-reactors", "two queues of one disk on two cores", verify::two_reactors)
        .vcpus(3)
        .bound_s(300),
    Scenario::new(
        "vhost-user-guest",
        "a guest's vhost-user disk: files, a reboot, unplugged and plugged again",
        host_disk::run,
    )
    .disk(host_disk::SPLIT, 2),
    Scenario::new(
        "vhost-user-guest-packed",
        "the same disk with packed virtqueues, written and verified",
        host_disk::packed,
    )
    .disk(host_disk::PACKED, 1),
    Scenario::new(
        "vhost-user-resize",
        "a guest's disk grows under load, and the guest uses what is new",
        host_disk::resize,
    )
    .disk(host_disk::FILE, 1),
    Scenario::new(
        "stack-vhost-user",
        "crypto over raid0 over files as a guest's disk, over a restart of spinblk",
        host_disk::stack,
    )
    .disk(host_disk::STACK, 1),
    Scenario::new(
        "vhost-user-kill",
        "spinblk is killed 20 times under a guest's load, ended, frozen: no error, no wrong byte",
        host_disk::killed,
    )
    .disk(host_disk::STACK, 1)
    .bound_s(400),
    Scenario::new("power-cut", "what was flushed is there after the machine was killed", power_cut::run)
        .drives(power_cut::DRIVES, 2),
    Scenario::new("demo", "a disk under fio, with all that both say", demo::run).by_hand(),
    Scenario::new("demo-container", "the same with fio in a container", container::demo)
        .programs(&["spinblk", "crun"])
        .by_hand(),
    Scenario::new("demo-vm", "the same in a virtual machine, over vhost-user", host_disk::demo)
        .disk(host_disk::SPLIT, 1)
        .by_hand(),
    Scenario::new("bench", "side by side with qemu-storage-daemon, ublk and null_blk", bench::run)
        .programs(&["spinblk", "rublk"])
        .bound_s(1800)
        .by_hand(),
    Scenario::new(
        "bench-restart",
        "from kill -9 to the first I/O, side by side with qemu-storage-daemon",
        bench_restart::run,
    )
    .bound_s(900)
    .by_hand(),
];

/// The scenario of that name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    TABLE.iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_file_name() {
        for (at, scenario) in TABLE.iter().enumerate() {
            assert!(
                scenario.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                scenario.name
            );
            assert!(TABLE[..at].iter().all(|other| other.name != scenario.name), "{} twice", scenario.name);
        }
    }
}
