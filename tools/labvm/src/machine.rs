//! A virtual machine inside of the lab's: the same kernel and the same init, emulated once more, with a vDPA device.
//!
//! ```text
//!   this guest's programs ──hard links──► root ──cpio──► initrd ─┐
//!   /lab/vmlinux ────────────────────────────────────────────────┼─► QEMU ─► init carries out its own plan
//!   /dev/vhost-vdpa-N ──────────────vhost-vdpa-device-pci────────┘              │
//!   events, output, files  ◄───────────────────virtio-serial ports──────────────┘
//! ```

use crate::command::{Cmd, Job, tail};
use crate::fail::{Fail, ensure};
use crate::lab::Lab;
use crate::protocol::{
    EVENTS_PORT, Event, FILES_PORT, KERNEL_COMMAND_LINE, KERNEL_PATH, PLAN_PATH, Plan, QEMU, TSC_WORD,
};
use crate::root;
use crate::state::text_of;
use crate::wait::wait_for;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Twice the unpacked initramfs, the kernel, and room for fio.
const MEMORY_MIB: u32 = 512;
/// On the file system of the programs, so that links will do.
const ROOT: &str = "/machine";
const INITRD: &str = "/tmp/machine.cpio";
const PROGRAMS: [&str; 2] = ["/init", "/usr/bin/fio"];
const PACK_LIMIT_S: u64 = 120;
/// Time in the machine passes with its instructions, and not by the clock: there, it would spend most of its time
/// on its timer's interrupts.
const NS_PER_INSTRUCTION_LOG2: u32 = 3;
/// The time stamp counter then counts that time in nanoseconds.
const TSC_KHZ: u32 = 1_000_000;
/// Emulation in an emulation takes its time.
const BOOT_LIMIT_S: u64 = 500;

/// A running machine; dropping it kills it.
pub(crate) struct Machine {
    qemu: Job,
    folder: PathBuf,
    started: Instant,
}

impl Machine {
    /// Starts one that has the vDPA device behind this node and carries out the plan.
    pub(crate) fn start(lab: &Lab, node: &Path, plan: &Plan) -> Result<Machine, Fail> {
        let folder = lab.out_dir().join("machine");
        std::fs::create_dir_all(&folder).map_err(Fail::file("create", &folder))?;
        pack(plan)?;
        // Not on the reactor's core.
        let command =
            Cmd::new("taskset").args(["1", QEMU]).args(hardware(&folder)).args(disk(MEMORY_MIB, node));
        let qemu = command.spawn_into(&folder.join("qemu.log"))?;
        Ok(Machine { qemu, folder, started: Instant::now() })
    }

    /// Waits until its init runs; gives the time since it was started.
    pub(crate) fn wait_until_booted(&mut self) -> Result<Duration, Fail> {
        let (qemu, folder) = (&mut self.qemu, &self.folder);
        let booted = || {
            events(folder).iter().any(|event| matches!(event, Event::Booted { .. })) || qemu.ended().is_some()
        };
        wait_for("the machine's init", BOOT_LIMIT_S, booted)
            .map_err(|fail| Fail::Check(format!("{fail}; {}", self.last_words())))?;
        Ok(self.started.elapsed())
    }

    /// Waits for its end; gives what its init reported.
    pub(crate) fn finish(mut self, limit_s: u64) -> Result<Vec<Event>, Fail> {
        let output = self.qemu.finish(limit_s)?;
        let events = events(&self.folder);
        text_of(self.folder.join("output.log")).lines().for_each(|line| println!("    | {line}"));
        let whole = output.status.success() && events.last() == Some(&Event::Done);
        ensure!(whole, "QEMU ended with {}; {}", output.status, self.last_words());
        Ok(events)
    }

    fn last_words(&self) -> String {
        let texts = ["qemu.log", "console.log", "output.log"].map(|name| text_of(self.folder.join(name)));
        format!("QEMU, the kernel and the machine's init said:\n{}", texts.map(|text| tail(&text)).join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(INITRD);
    }
}

fn events(folder: &Path) -> Vec<Event> {
    let text = text_of(folder.join("events.jsonl"));
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Makes the initramfs.
fn pack(plan: &Plan) -> Result<(), Fail> {
    let root = Path::new(ROOT);
    let _ = std::fs::remove_dir_all(root);
    root::make(root, &PROGRAMS)?;
    let text = serde_json::to_string(plan)
        .map_err(|source| Fail::Json { what: "the machine's plan".to_owned(), source })?;
    let path = root.join(PLAN_PATH.trim_start_matches('/'));
    std::fs::create_dir_all(root.join("lab")).map_err(Fail::file("create", root))?;
    std::fs::write(&path, text).map_err(Fail::file("write", &path))?;
    let script = format!(
        "set -e; cp -al /lib/modules {ROOT}/lib/; cd {ROOT}; find . | cpio -o -H newc >{INITRD}; rm -r {ROOT}"
    );
    Cmd::new("sh").args(["-c", &script]).limit_s(PACK_LIMIT_S).run().map(drop)
}

/// QEMU's arguments, but for the disk: what init needs, and what takes a nested emulation the least time.
fn hardware(folder: &Path) -> Vec<String> {
    let file = |id: &str, name: &str| format!("-chardev file,id={id},path={}", folder.join(name).display());
    let port = |id: &str, name: &str| format!("-device virtserialport,chardev={id},name={name}");
    let lines = [
        "-nodefaults -display none -no-reboot -machine q35,usb=off,vmport=off,hpet=off -smp 1".to_owned(),
        format!("-accel tcg,thread=single,tb-size=256 -cpu qemu64 -icount shift={NS_PER_INSTRUCTION_LOG2}"),
        "-device virtio-rng-pci -device virtio-serial-pci".to_owned(),
        file("console", "console.log"),
        "-serial chardev:console".to_owned(),
        file("output", "output.log"),
        "-device virtconsole,chardev=output".to_owned(),
        file("events", "events.jsonl"),
        port("events", EVENTS_PORT),
        file("files", "files.tar"),
        port("files", FILES_PORT),
        format!("-kernel {KERNEL_PATH} -initrd {INITRD} -append"),
    ];
    let words = lines.iter().flat_map(|line| line.split(' ')).map(str::to_owned);
    words.chain([format!("{KERNEL_COMMAND_LINE} {TSC_WORD}{TSC_KHZ}")]).collect()
}

/// Memory that the disk's daemon can map, and the disk.
fn disk(memory_mib: u32, node: &Path) -> Vec<String> {
    vec![
        "-m".to_owned(),
        format!("{memory_mib}M"),
        "-object".to_owned(),
        format!("memory-backend-memfd,id=memory,size={memory_mib}M,share=on"),
        "-numa".to_owned(),
        "node,memdev=memory".to_owned(),
        "-device".to_owned(),
        format!("vhost-vdpa-device-pci,vhostdev={}", node.display()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = include_str!("../../../docs/GUIDE_VMS.md");

    /// What people are told to type is what the machine here is started with, sizes aside.
    #[test]
    fn the_guide_names_the_options_of_a_vdpa_disk() {
        let (_, vdpa) = GUIDE.split_once("## vhost-vdpa with QEMU").unwrap();
        for argument in disk(4096, Path::new("/dev/vhost-vdpa-0")) {
            assert!(vdpa.contains(&argument), "{argument}");
        }
    }
}
