//! Logs that grow while disks are served: those that `serve` writes, and those of `hist record`.

#![allow(clippy::unwrap_used, missing_docs)]

mod load_rig;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use assert_cmd::cargo::cargo_bin;
use load_rig::{LIMIT, PAUSE, Running, cores, hold_cores, is_ready, load, serve, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spinblk_cli::hist::{Interval, LogReader};
use spinblk_perf::{OpKind, Stage};

fn read(path: &Path) -> Vec<Interval> {
    LogReader::open(path).unwrap().map(Result::unwrap).collect()
}

/// The beginnings of intervals.
fn starts(intervals: &[Interval]) -> usize {
    intervals.iter().map(|one| one.start).collect::<BTreeSet<_>>().len()
}

/// Requests of d0 in all intervals, of one stage or as a whole.
fn reads(intervals: &[Interval], stage: Option<Stage>) -> u64 {
    let of_stage = intervals.iter().filter(|one| one.tag.stage == stage && one.tag.disk() == "d0");
    of_stage.filter(|one| one.tag.kind == OpKind::Read).map(|one| one.histogram.len()).sum()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let give_up = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < give_up, "{what} does not come");
        std::thread::sleep(PAUSE);
    }
}

/// Ends a daemon; what it said on stderr.
fn stop(mut daemon: Running) -> String {
    kill(Pid::from_raw(daemon.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let mut said = String::new();
    daemon.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(daemon.0.wait().unwrap().success(), "{said}");
    said
}

/// A file that says what [`serve`] is told, and a log with short intervals.
fn config(folder: &Path) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "[reactor]\ncores = [{}]\nhugepages = \"off\"\n[control]\nsocket = \"{}\"\nhist_log = \"{}\"\n\
         hist_interval = \"50ms\"\n[[disk]]\nname = \"d0\"\ntype = \"null\"\nsize = \"8MiB\"\n\
         transport = \"vhost-user\"\nsocket = \"{}\"\n",
        cores()[1],
        at("control.sock"),
        at("d0.hlog"),
        at("d0.sock"),
    );
    std::fs::write(folder.join("s.toml"), text).unwrap();
    at("s.toml")
}

#[test]
fn serve_logs_every_request_once() {
    let _cores = hold_cores();
    let folder = tempfile::tempdir().unwrap();
    let (file, log, json) =
        (config(folder.path()), folder.path().join("d0.hlog"), folder.path().join("report.json"));
    let args = ["serve", "--config", &file, "--report-json", json.to_str().unwrap()];
    let daemon = start(&cargo_bin("spinblk"), &args, is_ready);
    let running = load(folder.path());
    wait_until("the fifth interval", || starts(&read(&log)) >= 5);
    drop(running);
    stop(daemon);
    let intervals = read(&log);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let ios = report["disks"][0]["ops"]["read"]["ios"].as_u64().unwrap();
    assert!(ios > 0);
    for stage in [None, Some(Stage::PickUp), Some(Stage::Bdev), Some(Stage::Return)] {
        assert_eq!(reads(&intervals, stage), ios, "{stage:?}");
    }
    assert!(intervals.iter().all(|one| !one.duration.is_zero() && !one.histogram.is_empty()));
    let plot = folder.path().join("heat.svg");
    let mut hist = Command::new(cargo_bin("spinblk"));
    hist.args(["hist", "plot", "--kind", "heatmap", "-o"]).arg(&plot).arg(&log);
    assert!(hist.status().unwrap().success());
    assert!(std::fs::read_to_string(plot).unwrap().contains("Latency over time: d0 read"));
}

#[test]
fn a_full_disk_is_told_once_and_serving_goes_on() {
    let _cores = hold_cores();
    let folder = tempfile::tempdir().unwrap();
    let (file, log) = (config(folder.path()), folder.path().join("d0.hlog"));
    // No file may grow beyond 32 KiB, and trying to is an error as on a full disk.
    let line =
        format!("trap '' XFSZ; ulimit -f 64; exec {} serve --config {file}", cargo_bin("spinblk").display());
    let daemon = start(Path::new("sh"), &["-c", &line], is_ready);
    let _load = load(folder.path());
    let size = || std::fs::metadata(&log).unwrap().len();
    wait_until("the end of the log's room", || size() > 28 << 10);
    let ctl = |what: &str| {
        let mut ctl = Command::new(cargo_bin("spinblk"));
        let ctl = ctl.args(["ctl", what, "--json", "--socket"]).arg(folder.path().join("control.sock"));
        serde_json::from_slice::<serde_json::Value>(&ctl.output().unwrap().stdout).unwrap()
    };
    let requests = || ctl("stats")["disks"][0]["queues"][0]["requests"].as_u64().unwrap();
    let uptime_ms = || ctl("version")["uptime_ms"].as_u64().unwrap();
    let (before, began_ms) = (requests(), uptime_ms());
    wait_until("ten more intervals", || uptime_ms() > began_ms + 500 && requests() > before);
    let intervals = read(&log);
    assert!(starts(&intervals) > 1, "what was written is whole");
    assert!(size() <= 32 << 10);
    let said = stop(daemon);
    assert_eq!(said.matches("intervals are lost until there is room again").count(), 1, "{said}");
}

#[test]
fn record_writes_what_a_daemon_does_meanwhile() {
    let _cores = hold_cores();
    let folder = tempfile::tempdir().unwrap();
    let _daemon = serve(folder.path());
    let _load = load(folder.path());
    let record = |name: &str, more: &[&str]| {
        let log = folder.path().join(name);
        let mut hist = Command::new(cargo_bin("spinblk"));
        hist.args(["hist", "record", "--interval", "100ms", "--duration", "500ms", "-o"]).arg(&log);
        hist.args(more).arg("--socket").arg(folder.path().join("control.sock")).env_remove("SPINBLK_LOG");
        let output = hist.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), read(&log))
    };
    wait_until("a request", || {
        let (_, intervals) = record("first.hlog", &[]);
        reads(&intervals, None) > 0
    });
    // A busy machine may give it its time in one piece, once.
    wait_until("several intervals", || {
        let (said, intervals) = record("whole.hlog", &[]);
        assert!(said.contains("whole.hlog: ") && said.contains(" interval(s)"), "{said}");
        assert!(intervals.iter().all(|one| one.tag.stage.is_none()));
        starts(&intervals) > 1
    });
    let (_, intervals) = record("stages.hlog", &["--stages"]);
    assert_eq!(reads(&intervals, Some(Stage::Bdev)), reads(&intervals, None));
    let mut hist = Command::new(cargo_bin("spinblk"));
    let gone =
        hist.args(["hist", "record", "--socket", "/nowhere/c.sock", "-o", "/nowhere/x"]).output().unwrap();
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(
        gone.status.code() == Some(1) && said.contains("cannot ask the daemon at /nowhere/c.sock"),
        "{said}"
    );
}
