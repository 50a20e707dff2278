//! `spinblk perf --hist-log` and `spinblk hist show` agree.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use assert_cmd::cargo::cargo_bin;
use spinblk_cli::hist::{Interval, LogReader};

/// Runs the program, and again while another test holds the core.
fn spinblk(args: &str) -> Output {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let mut command = Command::new(cargo_bin("spinblk"));
        let output = command.args(args.split_whitespace()).env_remove("SPINBLK_LOG").output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        if !error.contains("is already polled") || Instant::now() > give_up {
            return output;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_log_holds_what_the_report_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (log, json) = (path("x.hlog"), path("x.json"));
    let flags = "perf --target malloc:size=8MiB --rw randrw --queues 2 --qd 4 --time-s 0.3 --warmup-s 0.05";
    let before = SystemTime::now();
    let output = spinblk(&format!("{flags} --hist-log {} --json {}", log.display(), json.display()));
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let intervals: Vec<Interval> = LogReader::open(&log).unwrap().map(Result::unwrap).collect();
    let tags: Vec<String> = intervals.iter().map(|interval| interval.tag.to_string()).collect();
    let want = ["perf/q0/read", "perf/q0/write", "perf/q1/read", "perf/q1/write"];
    assert_eq!(tags, want.map(|tag| format!("{tag}/all/total")));
    for interval in &intervals {
        let queue = &report["queues"][usize::from(interval.tag.queue)];
        let op = &queue["ops"][interval.tag.kind.name()];
        let histogram = &interval.histogram;
        assert_eq!(Some(histogram.len()), op["ios"].as_u64());
        assert_eq!(Some(histogram.value_at_quantile(0.99)), op["p99_ns"].as_u64());
        assert_eq!(Some(histogram.max()), op["max_ns"].as_u64());
        assert_eq!(Some(interval.duration.as_millis() as u64), queue["elapsed_ns"].as_u64().map(to_ms));
        assert!(interval.start > before && interval.start < SystemTime::now());
    }
    let shown = spinblk(&format!("hist show {} --json --op read", log.display()));
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["ops"][0]["disk"], "perf");
    assert_eq!(shown["ops"][0]["count"], report["ops"]["read"]["ios"]);
    assert_eq!(shown["ops"][0]["p99_ns"], report["ops"]["read"]["p99_ns"]);
}

/// A log tells milliseconds, rounded.
fn to_ms(ns: u64) -> u64 {
    (ns + 500_000) / 1_000_000
}

#[test]
fn a_log_that_cannot_be_written_ends_the_run_before_it_begins() {
    let output = spinblk("perf --target null:size=8MiB --time-s 1000 --hist-log /nowhere/x.hlog");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("error: cannot write the report /nowhere/x.hlog: "), "{error}");
}

#[test]
fn a_longer_run_has_an_interval_for_each_second() {
    let dir = tempfile::tempdir().unwrap();
    let (log, json) = (dir.path().join("x.hlog"), dir.path().join("x.json"));
    let flags = "perf --target malloc:size=8MiB --qd 4 --time-s 2.5 --warmup-s 0.05";
    let output = spinblk(&format!("{flags} --hist-log {} --json {}", log.display(), json.display()));
    assert!(output.status.success(), "{output:?}");
    let intervals: Vec<Interval> = LogReader::open(&log).unwrap().map(Result::unwrap).collect();
    assert!(intervals.len() > 1, "{}", intervals.len());
    for pair in intervals.windows(2) {
        let gap = pair[1].start.duration_since(pair[0].start + pair[0].duration).unwrap_or_default();
        assert!(pair[0].start < pair[1].start && gap <= Duration::from_millis(1), "{gap:?}");
    }
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let told: u64 = intervals.iter().map(|interval| interval.histogram.len()).sum();
    assert_eq!(Some(told), report["ops"]["read"]["ios"].as_u64());
}
