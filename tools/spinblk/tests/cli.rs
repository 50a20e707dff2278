//! The program from outside: what a user sees when something is wrong. Each mistake gives one line on stderr that names
//! it and the fix, a non-zero status, and never the text of a panic.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use spinblk_reactor::CoreClaim;

/// Holds for any mistake, however deep in the program it is found.
const LIMIT: Duration = Duration::from_secs(60);

fn spinblk(args: &[&str]) -> Output {
    run(Command::new(cargo_bin("spinblk")).args(args).env_remove("SPINBLK_LOG"))
}

/// Runs a command that must end by itself.
fn run(command: &mut Command) -> Output {
    let (began, output) = (Instant::now(), command.output().unwrap());
    assert!(began.elapsed() < LIMIT);
    for text in [text(&output.stdout), text(&output.stderr)] {
        assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    }
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The one line of an error, with its exit status.
fn error(output: &Output) -> (i32, String) {
    let line = text(&output.stderr);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with("error: ") && output.stdout.is_empty(), "{line}");
    (output.status.code().unwrap(), line.trim_end().into())
}

/// A core that exists here, but not the first: other tests use that one.
fn some_core() -> usize {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).rfind(|&core| set.is_set(core).unwrap()).unwrap()
}

fn serve(disk: &str) -> Output {
    spinblk(&["serve", "--cores", &some_core().to_string(), "--disk", disk])
}

fn config(text: &str) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.toml");
    std::fs::write(&path, text).unwrap();
    let output = Command::new(cargo_bin("spinblk"))
        .args(["serve", "--config", "s.toml"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    error(&output)
}

fn has_vduse() -> bool {
    Path::new("/dev/vduse/control").exists()
}

#[test]
fn help_and_version() {
    let version = spinblk(&["--version"]);
    assert!(version.status.success());
    assert_eq!(text(&version.stdout).trim(), format!("spinblk {}", env!("CARGO_PKG_VERSION")));
    for (args, wanted) in [
        (vec!["--help"], "spinblk serve --cores 1 --disk"),
        (vec!["serve", "--help"], "name=d0,type=aio,path=/srv/disk.img"),
        (vec!["doctor", "--help"], "spinblk doctor --json"),
    ] {
        let help = spinblk(&args);
        assert!(help.status.success());
        assert!(text(&help.stdout).contains(wanted), "{args:?}");
    }
    assert_eq!(spinblk(&[]).status.code(), Some(2));
    assert_eq!(spinblk(&["serv"]).status.code(), Some(2));
}

#[test]
fn bad_configurations() {
    let disk = |lines: &str| config(&format!("[reactor]\ncores = [0]\n[[disk]]\nname = \"d0\"\n{lines}\n"));
    let cases = [
        (disk("typ = \"null\""), "s.toml:5: disk d0: typ = \"null\": unknown key; did you mean type?"),
        (disk("type = 5"), "s.toml:5: disk d0: type = 5: allowed: null, malloc, aio"),
        (
            disk("type = \"null\"\nsize = \"1Q\""),
            "s.toml:6: disk d0: size = \"1Q\": allowed: bytes or a number with",
        ),
        (disk("type = \"aio\""), "s.toml:3: disk d0: path: is missing; type aio needs"),
        (
            disk("type = \"null\"\nsize = 512\n[[disk]]\nname = \"d0\"\ntype = \"null\"\nsize = 512"),
            "s.toml:8: disk d0: name = \"d0\": another disk has this name",
        ),
        (config("[reactor"), "s.toml:1: "),
    ];
    for ((status, line), want) in cases {
        assert!(status == 2 && line.starts_with(&format!("error: {want}")), "{status} {line}\n{want}");
    }
}

#[test]
fn configurations_that_cannot_be_read() {
    for path in ["/nonexistent/s.toml", "/tmp", "/proc/self/exe"] {
        let (status, line) = error(&spinblk(&["serve", "--config", path]));
        assert!(status == 2 && line.contains(path), "{line}");
    }
}

#[test]
fn flags_that_make_no_sense() {
    let cases: [(&[&str], &str); 5] = [
        (&["serve"], "nothing to serve: give --config FILE"),
        (&["serve", "--config", "x", "--cores", "1"], "--config together with --cores"),
        (&["serve", "--disk", "name=d0,type=null,size=1M"], "--cores: is missing"),
        (&["serve", "--cores", "1"], "there is no disk to serve"),
        (&["--log", "a=b=c", "doctor"], "--log a=b=c: "),
    ];
    for (args, want) in cases {
        let (status, line) = error(&spinblk(args));
        assert!(status == 2 && line.starts_with(&format!("error: {want}")), "{line}");
    }
}

#[test]
fn files_that_are_no_disks() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small.img");
    std::fs::write(&small, [0; 100]).unwrap();
    let cases = [
        ("/nonexistent/disk.img".into(), "create it first"),
        (small, "make it larger"),
        (dir.path().into(), "give a regular file or a block device"),
        ("/dev/null".into(), "give a regular file or a block device"),
    ];
    for (path, fix) in cases {
        let path: PathBuf = path;
        let (status, line) = error(&serve(&format!("name=d0,type=aio,path={}", path.display())));
        assert!(status == 1 && line.contains("d0") && line.contains(fix), "{line}");
    }
}

#[test]
fn cores_that_cannot_be_had() {
    let disk = "name=d0,type=null,size=1M";
    let (status, line) = error(&spinblk(&["serve", "--cores", "1023", "--disk", disk]));
    assert!(
        status == 1 && line.contains("core 1023 cannot be used: this process may run on cores"),
        "{line}"
    );

    let core = some_core();
    let Ok(_claim) = CoreClaim::new(core) else { return };
    let (status, line) = error(&serve(disk));
    let holder = format!("core {core} is already polled by process {}", std::process::id());
    assert!(status == 1 && line.contains(&holder) && line.contains("choose another core"), "{line}");
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_starts() {
    for path in ["/nonexistent/report.json", "/tmp", "/dev/null"] {
        let args = ["serve", "--cores", "0", "--disk", "name=d0,type=null,size=1M", "--report-json", path];
        let (status, line) = error(&spinblk(&args));
        assert!(status == 1 && line.contains("cannot write the report") && line.contains(path), "{line}");
    }
}

/// Waits while another test holds the core.
fn serve_when_core_is_free(command: impl Fn() -> Command) -> (i32, String) {
    let give_up = Instant::now() + LIMIT;
    loop {
        let (status, line) = error(&run(&mut command()));
        if !line.contains("is already polled") || Instant::now() > give_up {
            return (status, line);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_host_without_vduse_is_told_the_module_and_the_fix() {
    if has_vduse() {
        return;
    }
    // Far more memory than there is: the cheap check must come first.
    let core = some_core().to_string();
    let disk = "name=d0,type=malloc,size=4096TiB";
    let (status, line) = serve_when_core_is_free(|| {
        let mut command = Command::new(cargo_bin("spinblk"));
        command.args(["serve", "--cores", &core, "--disk", disk]);
        command
    });
    assert_eq!(status, 1);
    assert!(line.starts_with("error: module vduse: ") && line.contains("modprobe vduse"), "{line}");
    assert!(!Path::new("/dev/vduse/d0").exists());
}

#[test]
fn ordinary_users_get_one_line_too() {
    if !nix::unistd::geteuid().is_root() || has_vduse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    // Where the program was built, others may not look.
    let program = dir.path().join("spinblk");
    std::fs::copy(cargo_bin("spinblk"), &program).unwrap();
    let secret = dir.path().join("secret.img");
    std::fs::write(&secret, [0; 4096]).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let core = some_core().to_string();
    let serve_as_nobody = |disk: &str| {
        serve_when_core_is_free(|| {
            let mut command = Command::new(&program);
            command.args(["serve", "--cores", &core, "--disk", disk]);
            command.env("XDG_RUNTIME_DIR", dir.path()).uid(65534).gid(65534);
            command
        })
    };
    let (status, line) = serve_as_nobody(&format!("name=d0,type=aio,path={}", secret.display()));
    assert!(status == 1 && line.contains("give this user read and write permission"), "{line}");
    let (status, line) = serve_as_nobody("name=d0,type=null,size=1M");
    assert!(status == 1 && line.starts_with("error: module vduse: "), "{line}");
}

#[test]
fn doctor_tells_what_is_missing_and_how_to_mend_it() {
    let output = spinblk(&["doctor"]);
    let all = text(&output.stdout);
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(i32::from(all.contains("MISSING"))), "{all}");
    for (line, next) in all.lines().zip(all.lines().skip(1)) {
        if line.starts_with("MISSING") || line.starts_with("warning") {
            assert!(next.trim_start().starts_with("fix: "), "{line}\n{next}");
        }
    }
    let json = spinblk(&["doctor", "--json"]);
    let checks: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(checks.as_array().unwrap().len() >= 12);
    assert_eq!(json.status.code(), output.status.code());
}
