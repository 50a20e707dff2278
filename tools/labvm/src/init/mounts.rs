//! The guest's file systems, applets and environment, from nothing but the unpacked initramfs.

use crate::command::Cmd;
use crate::fail::Fail;
use crate::results::OUT_DIR;
use nix::mount::{MsFlags, mount};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
use std::fs::{File, create_dir_all, read_dir};
use std::path::Path;

/// Type and place of every mount, in order.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("debugfs", "/sys/kernel/debug"),
];
const CONSOLE: &str = "/dev/hvc0";

/// Mounts, links, and points stdout to the console that the host shows.
pub(super) fn prepare() -> Result<(), Fail> {
    for (kind, place) in MOUNTS {
        mount_one(kind, Path::new(place))?;
    }
    use_console()?;
    install_applets()?;
    create_dir_all(OUT_DIR).map_err(Fail::file("create", Path::new(OUT_DIR)))?;
    let _ = std::os::unix::fs::symlink("/proc/self/fd", "/dev/fd");
    // Best effort: it has no bearing on most scenarios.
    let _ = Cmd::new("ip").args(["link", "set", "lo", "up"]).run();
    Ok(())
}

fn mount_one(kind: &str, place: &Path) -> Result<(), Fail> {
    // Directories of sysfs cannot be made; the kernel has those that it supports.
    let _ = create_dir_all(place);
    mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
        .map_err(Fail::system(format!("mount {kind} on {}", place.display())))
}

fn use_console() -> Result<(), Fail> {
    let path = Path::new(CONSOLE);
    let console = File::options().read(true).write(true).open(path).map_err(Fail::file("open", path))?;
    if let Ok(mut settings) = tcgetattr(&console) {
        // The log on the host wants plain line feeds.
        settings.output_flags.remove(OutputFlags::OPOST);
        let _ = tcsetattr(&console, SetArg::TCSANOW, &settings);
    }
    nix::unistd::dup2_stdout(&console).map_err(Fail::system("point stdout to the console"))?;
    nix::unistd::dup2_stderr(&console).map_err(Fail::system("point stderr to the console"))
}

/// Links for busybox's commands, where the real program is not packed.
fn install_applets() -> Result<(), Fail> {
    let bin = Path::new("/bin");
    let list = Cmd::new("/bin/busybox").arg("--list").run()?;
    for applet in list.lines() {
        let packed = ["/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(applet).exists());
        if !packed {
            let _ = std::os::unix::fs::symlink("/bin/busybox", bin.join(applet));
        }
    }
    read_dir(bin).map(drop).map_err(Fail::file("read", bin))
}
