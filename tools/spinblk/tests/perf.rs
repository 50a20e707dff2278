//! `spinblk perf` from outside: what it prints, what it writes, and how it complains.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;

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
        ("--target nvme:x", 2, "error: --target nvme:x: allowed: vhost-user:SOCKET, null:size=1GiB"),
        (
            "--target null:size=1M --bs 100",
            2,
            "error: target null: --bs 100: allowed: a multiple of its block size",
        ),
        ("--target null:size=1M --qd 0", 2, "error: target null: --qd 0: allowed: 1 to 4096"),
        ("--target null:size=1M --cores 1023", 1, "error: core 1023 cannot be used"),
        ("--target null:size=1M,read-only=true --rw write", 2, "error: target null: --rw: it is read-only"),
        ("--target aio:path=/nonexistent/x", 1, "error: bdev aio: open /nonexistent/x"),
        ("--target vhost-user:/nonexistent/x.sock", 1, "error: cannot connect to /nonexistent/x.sock"),
        ("--target null:size=1M --json /nonexistent/r", 1, "error: cannot write the report /nonexistent/r"),
    ];
    for (flags, status, want) in cases {
        let output = perf(flags);
        let (got, line) = error(&output);
        assert!(got == status && line.starts_with(want), "{got} {line}\n{want}");
        assert!(output.stdout.is_empty());
    }
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
