//! `spinblk perf` from outside: what it prints, what it writes, and how it complains.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::fcntl::OFlag;
use nix::libc::{c_int, c_uint};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

nix::ioctl_write_ptr!(lock_terminal, b'T', 0x31, c_int);
nix::ioctl_read!(terminal_number, b'T', 0x30, c_uint);

/// Runs `perf` with these flags, and again while another test holds the core.
fn perf(flags: &str) -> Output {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let mut command = Command::new(cargo_bin("spinblk"));
        command.arg("perf").args(flags.split_whitespace()).env_remove("SPINBLK_LOG");
        let output = command.output().unwrap();
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
        if !text(&output.stderr).contains("is already polled") || Instant::now() > give_up {
            return output;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A new pseudo-terminal: the side that sees what is shown, and the side that a program takes for its terminal.
fn terminal() -> (File, File) {
    let open = |path: &str| {
        let flags = (OFlag::O_NOCTTY | OFlag::O_CLOEXEC).bits();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap()
    };
    let screen = open("/dev/ptmx");
    let (unlocked, mut number) = (0, 0);
    // SAFETY: the descriptor is open, and each pointer is to a value of the type that the request takes.
    unsafe {
        lock_terminal(screen.as_raw_fd(), &raw const unlocked).unwrap();
        terminal_number(screen.as_raw_fd(), &raw mut number).unwrap();
    }
    (screen, open(&format!("/dev/pts/{number}")))
}

/// What `perf` shows on a terminal, and again while another test holds the core.
fn perf_on_terminal(flags: &str) -> String {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let (mut screen, terminal) = terminal();
        let mut command = Command::new(cargo_bin("spinblk"));
        command.arg("perf").args(flags.split_whitespace()).env_remove("SPINBLK_LOG").env("TERM", "xterm");
        command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
        let mut child = command.spawn().unwrap();
        // The other side stays open in `command`.
        drop(command);
        let mut shown = Vec::new();
        // EIO is how the end looks: nobody has the terminal open any more.
        let _ = screen.read_to_end(&mut shown);
        child.wait().unwrap();
        if !text(&shown).contains("is already polled") || Instant::now() > give_up {
            return text(&shown);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The line of the error; warnings about hugepages may stand before it.
fn error(output: &Output) -> (i32, String) {
    let all = text(&output.stderr);
    let lines: Vec<&str> = all.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{all}");
    (output.status.code().unwrap(), lines[0].into())
}

#[test]
fn a_run_prints_a_table_and_writes_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("result.json");
    let flags = "--target malloc:size=8MiB --rw randrw --mix 70 --queues 2 --qd 4 --time-s 0.3 --warmup-s 0.05 --verify";
    let output = perf(&format!("{flags} --json {}", path.display()));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for want in
        ["malloc:size=8MiB (8 MiB): randrw 4 KiB, 2 queue(s) of depth 4", "p99.999", " read ", " write "]
    {
        assert!(table.contains(want), "{table}");
    }
    assert!(table.contains("verify: ") && table.contains(" 0 wrong"), "{table}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let all = &json["ops"]["all"];
    let (p50, tail, max) = (&all["p50_ns"], &all["p99999_ns"], &all["max_ns"]);
    assert!(
        all["iops"].as_f64().unwrap() > 0.0 && p50.as_u64() <= tail.as_u64() && tail.as_u64() <= max.as_u64()
    );
    let ios = |op: &serde_json::Value| op["ios"].as_f64().unwrap();
    let share = ios(&json["ops"]["read"]) / ios(all);
    assert!((0.6..0.8).contains(&share), "{share}");
    let queues = json["queues"].as_array().unwrap();
    assert_eq!(queues.iter().map(|queue| ios(&queue["ops"]["all"])).sum::<f64>(), ios(all));
    assert_eq!(json["verify"]["mismatches"], 0);
}

#[test]
fn wrong_contents_end_in_an_error() {
    let output = perf("--target null:size=8MiB --time-s 0.1 --warmup-s 0 --verify");
    let (status, line) = error(&output);
    assert!(
        status == 1 && line.contains("checked blocks are wrong; the first: queue 0: block at "),
        "{line}"
    );
    assert!(text(&output.stdout).contains("verify: "));
}

#[test]
fn mistakes_are_told_in_one_line() {
    let cases = [
        (
            "--target nvme:x",
            2,
            "error: --target nvme:x: allowed: vhost-user:SOCKET, vhost-vdpa:DEVICE, null:",
        ),
        (
            "--target null:size=1M --bs 100",
            2,
            "error: target null: --bs 100: allowed: a multiple of its block size",
        ),
        ("--target null:size=1M --qd 0", 2, "error: target null: --qd 0: allowed: 1 to 4096"),
        ("--target null:size=1M --cores 1023", 1, "error: core 1023 cannot be used"),
        ("--target null:size=1M,read-only=true --rw write", 2, "error: target null: --rw: it is read-only"),
        (
            "--target null:size=1M --completions interrupt",
            2,
            "error: target null: --completions interrupt: it sends no interrupts, because it is in this process",
        ),
        (
            "--target malloc:size=1M --ring packed",
            2,
            "error: --ring: only for vhost-user and vhost-vdpa targets",
        ),
        ("--target aio:path=/nonexistent/x", 1, "error: bdev aio: open /nonexistent/x"),
        ("--target vhost-user:/nonexistent/x.sock", 1, "error: cannot connect to /nonexistent/x.sock"),
        ("--target vhost-vdpa:/nonexistent/v", 1, "error: cannot open /nonexistent/v: "),
        (
            "--target vhost-vdpa:/dev/null",
            1,
            "error: target vhost-vdpa:/dev/null: it is no vhost-vdpa device",
        ),
        ("--target null:size=1M --json /nonexistent/r", 1, "error: cannot write the report /nonexistent/r"),
    ];
    for (flags, status, want) in cases {
        let output = perf(flags);
        let (got, line) = error(&output);
        assert!(got == status && line.starts_with(want), "{got} {line}\n{want}");
        assert!(output.stdout.is_empty());
    }
}

/// A daemon that serves a small disk on a socket; ended on drop.
struct Daemon(Child);

impl Daemon {
    /// Starts one as soon as no other program has the core.
    fn start(socket: &Path, core: usize) -> Self {
        let give_up = Instant::now() + Duration::from_secs(60);
        let disk = format!(
            "name=d0,type=malloc,size=4MiB,queues=2,transport=vhost-user,socket={}",
            socket.display()
        );
        loop {
            let mut command = Command::new(cargo_bin("spinblk"));
            command.args(["serve", "--cores", &core.to_string(), "--hugepages", "off", "--disk", &disk]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            while !socket.exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            if socket.exists() {
                return Self(child);
            }
            assert!(Instant::now() < give_up, "the daemon does not start");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rings_of_all_kinds_carry_the_right_contents() {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap()).take(2).collect();
    let [client, server] = cores[..] else {
        eprintln!("skipped: two cores are needed, one for each side");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (socket, json) = (dir.path().join("d0.sock"), dir.path().join("result.json"));
    let _daemon = Daemon::start(&socket, server);
    let shared = format!(
        "--target vhost-user:{} --cores {client} --queues 2 --rw randrw --verify --time-s 0.2 --warmup-s 0 --json {}",
        socket.display(),
        json.display()
    );
    // 85 requests of 3 entries, 64 of 4, or 256 of 1: as many as a ring of 256, the server's longest, can hold.
    let rings = [
        ("--qd 64", "split", false),
        ("--qd 256 --indirect", "split", true),
        ("--qd 85 --ring packed", "packed", false),
        ("--qd 85 --ring packed --no-event-idx", "packed", false),
        ("--qd 256 --ring packed --indirect", "packed", true),
        ("--qd 3 --completions interrupt", "split", false),
        ("--qd 3 --completions interrupt --no-event-idx", "split", false),
        ("--qd 3 --completions interrupt --ring packed", "packed", false),
        ("--qd 3 --completions interrupt --ring packed --no-event-idx", "packed", false),
    ];
    for (flags, format, indirect) in rings {
        let output = perf(&format!("{shared} {flags}"));
        assert!(output.status.success(), "{flags}: {}", text(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(json["ring"], serde_json::json!({ "format": format, "indirect": indirect }), "{flags}");
        assert!(json["verify"]["checked"].as_u64().unwrap() > 0, "{flags}");
        let is_woken = flags.contains("interrupt");
        assert_eq!(json["completions"], if is_woken { "interrupt" } else { "poll" });
        for queue in json["queues"].as_array().unwrap() {
            assert_eq!(queue["interrupts"].as_u64().unwrap() > 0, is_woken, "{flags}: {queue}");
            assert!(queue["ops"]["all"]["ios"].as_u64().unwrap() > 0, "{flags}");
        }
    }
    let output = perf(&format!("{shared} --qd 65"));
    let (status, line) = error(&output);
    assert!(
        status == 1 && line.contains("it refuses rings of 512 entries") && line.contains("--indirect"),
        "{line}"
    );
}

/// The live line needs a rate, which is counted every half second.
const WATCHED: &str = "--target malloc:size=1MiB --qd 4 --warmup-s 0.2 --time-s 1.5 --progress";

#[test]
fn a_terminal_shows_a_live_line_and_then_the_report_alone() {
    let shown = perf_on_terminal(WATCHED);
    // What clears the line is the last that is not the report.
    let (live, report) = shown.rsplit_once("\u{1b}[2K").unwrap();
    assert!(live.contains("warming up, 0 s") && live.contains(" M IOPS, 1 of 2 s"), "{shown:?}");
    let report = report.replace("\r\n", "\n");
    let lines: Vec<&str> = report.lines().collect();
    assert!(
        lines[0].starts_with("malloc:size=1MiB (1 MiB): randread 4 KiB, 1 queue(s) of depth 4"),
        "{shown:?}"
    );
    assert!(lines[1].contains("p99.999") && lines[2].starts_with(" read "), "{shown:?}");
    assert!(lines[3].starts_with("queue 0 on core ") && lines.len() == 4, "{shown:?}");
    assert!(!report.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
}

#[test]
fn without_a_terminal_there_are_no_control_characters() {
    let output = perf(WATCHED);
    assert!(output.status.success());
    for stream in [&output.stdout, &output.stderr] {
        let stream = text(stream);
        assert!(!stream.contains(|c: char| c.is_control() && c != '\n'), "{stream:?}");
        assert!(!stream.contains("warming up"), "{stream:?}");
    }
    assert!(text(&output.stdout).starts_with("malloc:size=1MiB (1 MiB): randread 4 KiB, 1 queue(s)"));
}

#[test]
fn help_shows_examples() {
    let output = perf("--help");
    let help = text(&output.stdout);
    assert!(output.status.success());
    for want in ["spinblk perf --target vhost-user:/run/d0.sock --qd 32", "--warmup-s", "randwrite"] {
        assert!(help.contains(want), "{want}");
    }
}
