//! Tests of the checks against machines made of files.

use std::path::Path;

use tempfile::TempDir;

use super::*;

const ALL_CAPABILITIES: &str = "CapEff:\t000001ffffffffff\nSeccomp:\t0\nCpus_allowed_list:\t0-3\n";
const LIMITS: &str = "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         unlimited            unlimited            bytes\n";
const MODULES_DEP: &str = "kernel/drivers/vdpa/vdpa_user/vduse.ko.xz: kernel/drivers/vdpa/vdpa.ko.xz\n\
                           kernel/drivers/vdpa/vdpa.ko.xz:\nkernel/drivers/virtio/virtio_vdpa.ko:\n\
                           kernel/drivers/vhost/vhost-vdpa.ko.zst:\n";

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A machine that has all there is to have.
fn healthy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, "proc/sys/kernel/osrelease", "6.12.9-cloud\n");
    put(root, "proc/sys/kernel/io_uring_disabled", "0\n");
    put(root, "proc/self/status", ALL_CAPABILITIES);
    put(root, "proc/self/limits", LIMITS);
    put(root, "proc/meminfo", "HugePages_Total: 64\nHugePages_Free: 60\nHugepagesize: 2048 kB\n");
    put(root, "dev/vduse/control", "");
    for module in ["vduse", "vdpa", "virtio_vdpa", "vhost_vdpa", "virtio_blk"] {
        put(root, &format!("sys/module/{module}/refcnt"), "0");
    }
    put(root, "sys/devices/system/cpu/isolated", "2-3\n");
    put(root, "sys/devices/system/cpu/nohz_full", "2-3\n");
    put(root, "sys/devices/system/cpu/smt/active", "0\n");
    put(root, "sys/devices/virtual/workqueue/cpumask", "3\n");
    put(root, "proc/irq/24/smp_affinity_list", "0-3\n");
    put(root, "proc/irq/24/effective_affinity_list", "1\n");
    put(root, "proc/irq/default_smp_affinity", "f\n");
    put(root, "proc/self/oom_score_adj", "-1000\n");
    put(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
    dir
}

fn host(dir: &TempDir) -> Host {
    Host::fake(dir.path(), || Ok(()))
}

fn check(host: &Host, name: &str) -> Check {
    examine(host).into_iter().find(|check| check.name == name).unwrap()
}

/// The check's status and its fix.
fn verdict(host: &Host, name: &str) -> (Status, String) {
    let check = check(host, name);
    (check.status, check.fix.unwrap_or_default())
}

#[test]
fn a_healthy_machine_is_found_healthy() {
    let dir = healthy();
    let checks = examine(&host(&dir));
    // The clock is this machine's own.
    let bad: Vec<&Check> = checks.iter().filter(|c| c.status != Status::Ok && c.name != "clock").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(can_serve(&checks));
    require_vduse(&host(&dir), true, true).unwrap();
}

#[test]
fn an_empty_machine_lacks_everything_and_nothing_panics() {
    let dir = tempfile::tempdir().unwrap();
    let checks = examine(&Host::fake(dir.path(), || Err("cannot set up io_uring".into())));
    assert!(!can_serve(&checks));
    for check in checks.iter().filter(|check| check.status != Status::Ok) {
        assert!(check.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{check:?}");
    }
    assert!(to_text(&checks).contains("cannot serve disks yet"));
}

#[test]
fn a_module_is_loadable_absent_or_nowhere() {
    let dir = healthy();
    std::fs::remove_dir_all(dir.path().join("sys/module")).unwrap();
    std::fs::remove_dir_all(dir.path().join("dev")).unwrap();
    let host = host(&dir);
    let nowhere = check(&host, "module vduse");
    assert_eq!(nowhere.status, Status::Missing);
    assert!(nowhere.found.contains("no /lib/modules/6.12.9-cloud"), "{nowhere:?}");

    put(dir.path(), "lib/modules/6.12.9-cloud/modules.dep", MODULES_DEP);
    put(dir.path(), "lib/modules/6.12.9-cloud/modules.builtin", "kernel/drivers/block/virtio_blk.ko\n");
    assert_eq!(verdict(&host, "module vduse"), (Status::Missing, "modprobe vduse".into()));
    assert_eq!(verdict(&host, "module vhost_vdpa"), (Status::Warning, "modprobe vhost_vdpa".into()));
    assert_eq!(check(&host, "module virtio_blk").status, Status::Ok);
    let error = require_vduse(&host, true, false).unwrap_err();
    assert_eq!(error.to_string(), "module vduse: not loaded; modprobe vduse (see `spinblk doctor`)");

    put(dir.path(), "lib/modules/6.12.9-cloud/modules.dep", "");
    let absent = check(&host, "module vduse");
    assert_eq!(absent.status, Status::Missing);
    assert!(absent.found.contains("built without CONFIG_VDPA_USER"), "{absent:?}");
    assert!(absent.fix.unwrap().contains("linux-image-cloud-amd64"));
}

#[test]
fn only_the_bus_driver_that_is_wanted_must_be_there() {
    let dir = healthy();
    std::fs::remove_dir_all(dir.path().join("sys/module/vhost_vdpa")).unwrap();
    put(dir.path(), "lib/modules/6.12.9-cloud/modules.dep", MODULES_DEP);
    require_vduse(&host(&dir), true, false).unwrap();
    let error = require_vduse(&host(&dir), false, true).unwrap_err().to_string();
    assert!(error.contains("modprobe vhost_vdpa"), "{error}");
    assert!(can_serve(&examine(&host(&dir))));
}

#[test]
fn io_uring_is_missing_for_a_reason() {
    let dir = healthy();
    let host = Host::fake(dir.path(), || Err("Operation not permitted".into()));
    put(dir.path(), "proc/sys/kernel/io_uring_disabled", "2\n");
    assert_eq!(verdict(&host, "io_uring"), (Status::Missing, "sysctl kernel.io_uring_disabled=0".into()));
    put(dir.path(), "proc/sys/kernel/io_uring_disabled", "0\n");
    put(dir.path(), "proc/self/status", "CapEff:\t0\nSeccomp:\t2\n");
    let (status, fix) = verdict(&host, "io_uring");
    assert!(status == Status::Missing && fix.contains("seccomp profile"), "{fix}");
    put(dir.path(), "proc/sys/kernel/io_uring_disabled", "1\n");
    assert!(verdict(&host, "io_uring").1.starts_with("run as root"));
}

#[test]
fn rights_and_limits() {
    let dir = healthy();
    let limits = LIMITS.replace("unlimited            unlimited", "8388608              8388608");
    put(dir.path(), "proc/self/limits", &limits);
    let memlock = check(&host(&dir), "RLIMIT_MEMLOCK");
    assert_eq!((memlock.status, memlock.found.as_str()), (Status::Ok, "8 MiB, and serve may raise it"));
    put(dir.path(), "proc/self/status", "CapEff:\t0000000000000000\nCpus_allowed_list:\t5\n");
    let host = host(&dir);
    let (status, fix) = verdict(&host, "RLIMIT_MEMLOCK");
    assert!(status == Status::Warning && fix.contains("ulimit -l unlimited"), "{fix}");
    let (status, fix) = verdict(&host, "CAP_NET_ADMIN");
    assert!(status == Status::Missing && fix.contains("setcap"), "{fix}");
    assert_eq!(verdict(&host, "cores").0, Status::Warning);
}

#[test]
fn memory_is_locked_where_limit_or_capability_allow_it() {
    let dir = healthy();
    let limits = LIMITS.replace("unlimited            unlimited", "8388608              8388608");
    put(dir.path(), "proc/self/limits", &limits);
    let status = |capabilities: &str| format!("CapEff:\t{capabilities}\nCpus_allowed_list:\t0-3\n");
    put(dir.path(), "proc/self/status", &status("0000000000004000"));
    put(dir.path(), "proc/self/uid_map", "         0          0 4294967295\n");
    assert_eq!(verdict(&host(&dir), "locked memory").0, Status::Ok);
    // The same capability inside of a user namespace is none.
    put(dir.path(), "proc/self/uid_map", "         0       1000          1\n");
    let (status_there, fix) = verdict(&host(&dir), "locked memory");
    assert!(status_there == Status::Warning && fix.contains("LimitMEMLOCK=infinity"), "{fix}");
    put(dir.path(), "proc/self/status", &status("0000000001000000"));
    assert_eq!(check(&host(&dir), "locked memory").found, "serve may raise the limit and lock all of it");
}

#[test]
fn the_running_daemon_is_the_one_whose_score_counts() {
    let dir = healthy();
    put(dir.path(), "proc/77/comm", "spinblk\n");
    put(dir.path(), "proc/77/cmdline", "/usr/bin/spinblk\0ctl\0disks\0");
    put(dir.path(), "proc/77/oom_score_adj", "0\n");
    assert_eq!(check(&host(&dir), "OOM score").found, "-1000 for a daemon started from here");
    put(dir.path(), "proc/77/cmdline", "/usr/bin/spinblk\0serve\0--config\0x\0");
    let score = check(&host(&dir), "OOM score");
    assert_eq!(
        (score.status, score.found.as_str()),
        (Status::Warning, "0 for the running daemon, process 77")
    );
    assert!(score.fix.unwrap().ends_with("choom -n -1000 -p 77"));
}

#[test]
fn isolated_cores_are_free_of_interrupts_and_work() {
    let dir = healthy();
    assert_eq!(check(&host(&dir), "interrupts").found, "none goes to an isolated core");
    put(dir.path(), "proc/irq/24/effective_affinity_list", "\n");
    put(dir.path(), "proc/irq/9/effective_affinity_list", "2\n");
    put(dir.path(), "sys/devices/virtual/workqueue/cpumask", "f\n");
    assert_eq!(check(&host(&dir), "interrupts").found, "2 may go to isolated cores: 9, 24");
    assert_eq!(check(&host(&dir), "kernel workqueues").found, "the mask f has 2 isolated core(s)");
    put(dir.path(), "sys/devices/system/cpu/isolated", "\n");
    assert_eq!(verdict(&host(&dir), "interrupts").0, Status::Ok);
    assert_eq!(verdict(&host(&dir), "kernel workqueues").0, Status::Ok);
}

#[test]
fn kernels_hugepages_and_cores() {
    let dir = healthy();
    put(dir.path(), "proc/sys/kernel/osrelease", "5.15.0-91-generic");
    put(dir.path(), "proc/meminfo", "HugePages_Total: 0\nHugePages_Free: 0\nHugepagesize: 2048 kB\n");
    put(dir.path(), "sys/devices/system/cpu/isolated", "\n");
    put(dir.path(), "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
    put(dir.path(), "sys/devices/system/cpu/smt/active", "1\n");
    for cpu in 0..4 {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        put(dir.path(), &path, &format!("{},{}", cpu % 2, cpu % 2 + 2));
    }
    let host = host(&dir);
    assert_eq!(verdict(&host, "kernel").0, Status::Missing);
    assert!(verdict(&host, "hugepages").1.starts_with("sysctl vm.nr_hugepages=64 "));
    assert!(verdict(&host, "isolated cores").1.contains("isolcpus=managed_irq,domain,3 nohz_full=3"));
    assert_eq!(verdict(&host, "cpufreq governor").1, "cpupower frequency-set -g performance");
    assert_eq!(check(&host, "hyper-threads").found, "sharing a core: 0,2; 1,3");
    put(dir.path(), "sys/devices/system/cpu/isolated", "1,3\n");
    assert!(verdict(&host, "isolated cores").1.contains("nohz_full=1,3"));
}

#[test]
fn the_control_node_must_be_a_file_that_opens() {
    let dir = healthy();
    std::fs::remove_file(dir.path().join("dev/vduse/control")).unwrap();
    assert!(verdict(&host(&dir), "/dev/vduse/control").1.contains("modprobe vduse"));
    put(dir.path(), "dev/vduse/control/inside", "");
    assert_eq!(verdict(&host(&dir), "/dev/vduse/control").0, Status::Missing);
}

#[test]
fn json_names_status_and_fix() {
    let check = Check::bad(Status::Missing, "n", "f", "w", "x");
    let json = serde_json::to_string(&check).unwrap();
    assert_eq!(json, r#"{"name":"n","status":"missing","found":"f","why":"w","fix":"x"}"#);
}
