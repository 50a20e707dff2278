//! Stacks of bdevs from outside: what `bdev check` tells, and a stack under load and served to a client.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(60);

/// Encryption over stripes over RAM and a file, with all keys that are read and files that are made.
const STACK: &str = r#"
[[bdev]]
name = "ram"
type = "malloc"
size = "1MiB"

[[bdev]]
name = "file"
type = "aio"
path = "disk.img"
create_size = "1MiB"

[[bdev]]
name = "r0"
type = "raid0"
children = ["ram", "file"]
chunk = "4KiB"

[[bdev]]
name = "c0"
type = "crypto"
child = "r0"
key_file = "key"
sector_size = 4096
"#;

/// A folder with `s.toml` and a key.
fn folder(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.toml"), text).unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, (0..64).collect::<Vec<u8>>()).unwrap();
    std::fs::set_permissions(key, PermissionsExt::from_mode(0o600)).unwrap();
    dir
}

fn command(dir: &Path, args: &str) -> Command {
    let mut command = Command::new(cargo_bin("spinblk"));
    command.args(args.split_whitespace()).current_dir(dir).env_remove("SPINBLK_LOG");
    command
}

/// Runs the program in `dir`, and again while another test holds the core.
fn spinblk(dir: &Path, args: &str) -> Output {
    let give_up = Instant::now() + LIMIT;
    loop {
        let output = command(dir, args).output().unwrap();
        let said = text(&output.stderr);
        assert!(!said.contains("panicked"), "{said}");
        if !said.contains("is already polled") || Instant::now() > give_up {
            return output;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_good_file_is_shown_and_nothing_is_made() {
    let dir = folder(STACK);
    let output = spinblk(dir.path(), "bdev check s.toml");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let shown = text(&output.stdout);
    let starts = [
        "c0          crypto  2 MiB",
        "└─ r0       raid0   2 MiB",
        "   ├─ ram   malloc  1 MiB",
        "   └─ file  aio     1 MiB",
    ];
    assert_eq!(shown.lines().count(), starts.len());
    for (line, start) in shown.lines().zip(starts) {
        assert!(line.starts_with(start), "{shown}");
    }
    assert!(shown.contains("AES-256-XTS") && shown.contains("missing, will be created"), "{shown}");
    assert!(!dir.path().join("disk.img").exists());
    let json = spinblk(dir.path(), "bdev check --json s.toml");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json[0]["children"][0]["children"][1]["name"], "file");
}

#[test]
fn exit_statuses_tell_bad_files_from_bad_machines() {
    let dir = folder("");
    let cases = [
        ("[[bdev]]\nname = \"x\"\n", 2, "s.toml:1: bdev x: type: is missing; allowed: null, malloc"),
        ("[[bdev\n", 2, "s.toml:1: "),
        (&STACK.replace("\"key\"", "\"none\""), 1, "s.toml:19: bdev c0: key none: "),
        ("[reactor]\ncores = [1]\n", 2, "there is no disk to serve"),
    ];
    for (text_of_file, status, want) in cases {
        std::fs::write(dir.path().join("s.toml"), text_of_file).unwrap();
        let output = spinblk(dir.path(), "bdev check s.toml");
        let line = text(&output.stderr);
        assert_eq!((output.status.code(), line.lines().count()), (Some(status), 1), "{line}");
        assert!(line.starts_with(&format!("error: {want}")) && output.stdout.is_empty(), "{line}");
    }
    std::fs::write(dir.path().join("s.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    for (file, want) in [("s.toml", "it is longer than 1 MiB"), ("none.toml", "No such file")] {
        let output = spinblk(dir.path(), &format!("bdev check {file}"));
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(want), "{}", text(&output.stderr));
    }
}

#[test]
fn a_stack_under_load_keeps_what_is_written() {
    let dir = folder(STACK);
    let load = "--rw randrw --qd 8 --bs 16KiB --time-s 0.2 --warmup-s 0 --verify";
    let output = spinblk(dir.path(), &format!("perf --target config:file=s.toml,bdev=c0 {load}"));
    let table = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(table.contains("bdev=c0 (2 MiB): randrw 16 KiB") && table.contains(" 0 wrong"), "{table}");
    assert!(std::fs::read(dir.path().join("disk.img")).unwrap().iter().any(|byte| *byte != 0));
}

#[test]
fn targets_of_a_file_are_checked() {
    let dir = folder(&format!(
        "{STACK}[reactor]\ncores = [0]\n[[disk]]\nname = \"d0\"\nbdev = \"c0\"\nread_only = true\n"
    ));
    let cases = [
        ("config:bdev=c0", 2, "--target config: file: is missing; write config:file=FILE,bdev=NAME"),
        ("config:file=s.toml", 2, "--target config: bdev: is missing; write config:file=FILE,bdev=NAME"),
        ("config:file=s.toml,bdev=x", 2, "--target config: bdev=x: there is no bdev of this name in s.toml"),
        ("config:file=none.toml,bdev=x", 2, "cannot read the configuration none.toml: "),
        (
            "config:file=s.toml,bdev=c0 --ring packed",
            2,
            "--ring: only for vhost-user and vhost-vdpa targets; a config disk has no",
        ),
        // What a disk that is read-only stands on is not written here, either.
        ("config:file=s.toml,bdev=ram --rw write", 2, "target ram: --rw: it is read-only"),
    ];
    for (target, status, want) in cases {
        let output = spinblk(dir.path(), &format!("perf --target {target} --time-s 0.1"));
        let line = text(&output.stderr);
        assert!(
            line.contains(&format!("error: {want}")) && output.status.code() == Some(status),
            "{line}\n{want}"
        );
    }
}

#[test]
fn a_stack_is_served_and_what_nobody_uses_is_named() {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let core = (0..CpuSet::count()).rfind(|core| set.is_set(*core).unwrap()).unwrap();
    let dir = folder(&format!(
        "{STACK}[[bdev]]\nname = \"idle\"\ntype = \"null\"\nsize = \"1MiB\"\n[reactor]\ncores = [{core}]\n\
         [[disk]]\nname = \"d0\"\nbdev = \"c0\"\ntransport = \"vhost-user\"\nsocket = \"d0.sock\"\n"
    ));
    let give_up = Instant::now() + LIMIT;
    loop {
        let mut serve = command(dir.path(), "serve --config s.toml");
        let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        // Gone already, if the core was not to be had.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        let mut said = String::new();
        child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        if said.contains("is already polled") && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(100));
            continue;
        }
        assert!(status.success(), "{said}");
        assert!(line.starts_with("d0: d0.sock, crypto 2 MiB, 1 queue of 256 on core"), "{line}");
        let warning =
            "warning: s.toml:25: bdev idle: no disk stands on it; name it as a disk's bdev, or take it out";
        assert!(said.lines().any(|line| line == warning), "{said}");
        return;
    }
}
