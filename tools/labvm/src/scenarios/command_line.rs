//! The command line: what it refuses and how, the configuration file, the choice of the bus driver.

use crate::command::{Cmd, Output, tail};
use crate::fail::{Fail, ensure};
use crate::fio::FioJob;
use crate::lab::Lab;
use crate::spinblk::{Daemon, Disk};
use crate::state::{leftovers, names_in, text_of};
use crate::vdpa;
use std::path::Path;

/// Cores, a disk, and what the error must name.
const WRONG: [(&str, &str, &str); 9] = [
    ("1", "name=d0,type=malloc,size=banana", "banana"),
    ("1", "name=d0,type=tape,size=64MiB", "tape"),
    ("1", "name=a/b,type=malloc,size=64MiB", "a/b"),
    ("1", "name=control,type=malloc,size=64MiB", "control"),
    ("77", "name=d0,type=malloc,size=64MiB", "77"),
    ("1", "name=d0,type=aio,path=/no/such/disk.img", "/no/such/disk.img"),
    ("1", "name=d0,type=aio,path=/tmp/small.img", "/tmp/small.img"),
    ("1", "name=d0,type=malloc,size=64MiB,queue-size=100", "queue-size"),
    ("1", "name=d0,type=malloc,size=64MiB,speed=11", "speed"),
];
const GOOD: &str = "name=d0,type=malloc,size=64MiB";

/// What cannot be done ends in one line, a non-zero status, and nothing left behind.
pub(super) fn refusals(lab: &mut Lab) -> Result<(), Fail> {
    // This one first, while it is true.
    refuse(lab, &["--cores", "1", "--disk", GOOD], "vduse")?;
    lab.load_vduse()?;
    write("/tmp/small.img", &"x".repeat(100))?;
    for (cores, disk, at_fault) in WRONG {
        refuse(lab, &["--cores", cores, "--disk", disk], at_fault)?;
    }
    write("/tmp/bad.toml", "[reactor]\ncores = [1]\n\n[[disk]]\nname = \"d0\"\ntipe = \"malloc\"\n")?;
    refuse(lab, &["--config", "/tmp/bad.toml"], "/tmp/bad.toml")?;
    refuse(lab, &["--config", "/tmp/missing.toml"], "/tmp/missing.toml")?;
    refuse_without_permission(lab)?;
    refuse_without_hugepages(lab)?;
    refuse_busy_core(lab)
}

fn refuse_without_permission(lab: &Lab) -> Result<(), Fail> {
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let command = Cmd::new("setpriv").args(nobody).args(["spinblk", "serve", "--cores", "1", "--disk", GOOD]);
    check_refusal(lab, "as nobody", &command.limit_s(20).output()?, "/dev/vduse/control")
}

fn refuse_without_hugepages(lab: &Lab) -> Result<(), Fail> {
    let setting = "/proc/sys/vm/nr_hugepages";
    let before = text_of(setting);
    write(setting, "0")?;
    let result = refuse(lab, &["--cores", "1", "--hugepages", "require", "--disk", GOOD], "hugepages");
    write(setting, &before)?;
    result
}

/// A core that another spinblk polls is refused, and that one serves on.
fn refuse_busy_core(lab: &Lab) -> Result<(), Fail> {
    let (daemon, device) = Daemon::start_one(lab, Disk::malloc("first", 64))?;
    let output = serve(&["--cores", "1", "--disk", GOOD])?;
    let text = output.text.trim();
    lab.say(&format!("a busy core: {text}"));
    ensure!(!output.status.success(), "a second spinblk takes core 1 as well");
    ensure!(text.lines().count() == 1 && text.contains("core 1"), "the error does not name core 1:\n{text}");
    FioJob::new("after", &device, "randread", "4k").depth(8).seconds(1).run(lab)?;
    daemon.stop().map(drop)
}

fn refuse(lab: &Lab, arguments: &[&str], at_fault: &str) -> Result<(), Fail> {
    check_refusal(lab, &arguments.join(" "), &serve(arguments)?, at_fault)
}

fn check_refusal(lab: &Lab, line: &str, output: &Output, at_fault: &str) -> Result<(), Fail> {
    let text = output.text.trim();
    lab.say(&format!("{line}: {text}"));
    ensure!(!output.status.success(), "`spinblk serve {line}` is accepted");
    ensure!(output.status.code().is_some(), "`spinblk serve {line}` died: {}:\n{text}", output.status);
    ensure!(text.lines().count() == 1, "the error of `spinblk serve {line}` is not one line:\n{text}");
    ensure!(text.contains(at_fault), "the error of `spinblk serve {line}` does not name {at_fault}:\n{text}");
    let left = leftovers();
    ensure!(left.is_none(), "after `spinblk serve {line}`: {}", left.unwrap_or_default());
    Ok(())
}

fn serve(arguments: &[&str]) -> Result<Output, Fail> {
    Cmd::new("spinblk").arg("serve").args(arguments.iter().copied()).limit_s(20).output()
}

fn write(path: &str, content: &str) -> Result<(), Fail> {
    std::fs::write(path, content).map_err(Fail::file("write", Path::new(path)))
}

/// Two disks from a TOML file.
pub(super) fn config_file(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    let disk = |name: &str| format!("\n[[disk]]\nname = \"{name}\"\ntype = \"malloc\"\nsize = \"32MiB\"\n");
    write("/tmp/spinblk.toml", &format!("[reactor]\ncores = [1]\n{}{}", disk("d0"), disk("d1")))?;
    let daemon =
        Daemon::start_with(lab, Cmd::new("spinblk").args(["serve", "--config", "/tmp/spinblk.toml"]))?;
    for name in ["d0", "d1"] {
        let device = vdpa::block_device(name)?;
        FioJob::new(name, &device, "randwrite", "4k").depth(8).set("size", "8M").verify().run(lab)?;
    }
    daemon.stop().map(drop)
}

/// A disk for virtual machines: on vhost-vdpa there is a character device and no block device.
pub(super) fn vhost_vdpa(lab: &mut Lab) -> Result<(), Fail> {
    lab.load_vduse()?;
    lab.modprobe(&["vhost_vdpa"])?;
    let mut daemon = Daemon::start(lab, "1", &[Disk::malloc("d0", 64).set("driver", "vhost-vdpa")])?;
    let nodes: Vec<String> = names_in("/dev").into_iter().filter(|n| n.starts_with("vhost-vdpa")).collect();
    ensure!(
        nodes.len() == 1,
        "/dev has {nodes:?}, not one vhost-vdpa node; spinblk says:\n{}",
        tail(&daemon.text())
    );
    let block = vdpa::find_block("d0");
    ensure!(block.is_none(), "d0 has a block device as well: {block:?}");
    daemon.stop().map(drop)
}
