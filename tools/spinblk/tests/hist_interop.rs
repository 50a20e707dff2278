//! An interval log of ours, read by HdrHistogram's own Python port from its package index. Needs `python3` with
//! `venv`; where the index cannot be reached it says so and shows nothing.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use spinblk_cli::hist::{DeltaLog, LogWriter, Tag};
use spinblk_perf::{DIGITS, MAX_NS, OpKind, SharedHistogram, SizeClass, Stage};

const PACKAGE: &str = "hdrhistogram==0.10.8";

/// Prints a line for each interval: tag, start, duration, and each bucket's highest value and count.
const SCRIPT: &str = r#"
import sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, (1 << 37) - 1, 2))
while True:
    h = reader.get_next_interval_histogram()
    if h is None:
        break
    span = h.get_end_time_stamp() - h.get_start_time_stamp()
    buckets = [(i.value_iterated_to, i.count_added_in_this_iter_step) for i in h.get_recorded_iterator()]
    print(h.get_tag(), int(h.get_start_time_stamp()), int(span), *(f"{v}:{n}" for v, n in buckets))
"#;

/// Runs a command; `what` says what is missing if it fails.
fn run(command: &mut Command, what: &str) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{what}: {command:?}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A Python with the package, where that can be had.
fn python(dir: &Path) -> Option<Command> {
    run(Command::new("python3").args(["-m", "venv"]).arg(dir), "this test needs python3 with venv");
    let python = dir.join("bin/python");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--timeout", "30", PACKAGE];
    let installed = Command::new(&python).args(pip).status().unwrap().success();
    installed.then(|| Command::new(python))
}

#[test]
fn a_log_of_ours_is_read_by_another_implementation() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("x.hlog");
    let mut log = LogWriter::create(&path).unwrap();
    let mut want = String::new();
    let contents: [(Tag, Vec<u64>); 3] = [
        (
            Tag::new("d0", 0, OpKind::Read, Some(SizeClass::To4KiB), Some(Stage::Bdev)).unwrap(),
            (1..5000).collect(),
        ),
        (
            Tag::new("perf", 63, OpKind::Write, None, None).unwrap(),
            (0..37).flat_map(|shift| [1 << shift, 3 << shift]).collect(),
        ),
        (Tag::new("a.b_c-d", 7, OpKind::Flush, None, None).unwrap(), Vec::new()),
    ];
    for (second, (tag, values)) in contents.iter().enumerate() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
        values.iter().for_each(|value| histogram.saturating_record(*value));
        let start_ms = 4_100_000_000_250 + 1000 * second as u64;
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(start_ms);
        log.interval(tag, start, Duration::from_millis(1500), &histogram).unwrap();
        write!(want, "{tag} {start_ms} 1500").unwrap();
        for step in histogram.iter_recorded() {
            write!(want, " {}:{}", step.value_iterated_to(), step.count_at_value()).unwrap();
        }
        want.push('\n');
    }
    log.flush().unwrap();
    let (grown, want_grown) = grown_log(dir.path());
    let Some(mut python) = python(&dir.path().join("venv")) else {
        eprintln!("skipped: {PACKAGE} cannot be fetched");
        return;
    };
    python.args(["-c", SCRIPT]);
    for (path, want) in [(path, want), (grown, want_grown)] {
        let mut reader = Command::new(python.get_program());
        let read = run(reader.args(python.get_args()).arg(&path), "the log was not read");
        assert_eq!(read, want);
    }
}

/// A log as `serve` and `hist record` write it, from a board that a reactor fills meanwhile; and what is to be read.
fn grown_log(dir: &Path) -> (PathBuf, String) {
    let (path, mut want) = (dir.join("grown.hlog"), String::new());
    let (total, bdev) = (SharedHistogram::new(), SharedHistogram::new());
    let tag = |stage| Tag::new("d0", 3, OpKind::Read, Some(SizeClass::To16KiB), stage).unwrap();
    let mut log = DeltaLog::create(&path).unwrap();
    let time = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(4_100_000_000 + second);
    log.begin(time(0), []);
    for second in 1..=3 {
        let mut new = Histogram::<u64>::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
        for us in 1..=50 * second {
            let ns = us * 1000;
            total.record(ns, 2);
            bdev.record(ns, 2);
            new.record_n(ns, 2).unwrap();
        }
        let reading = [(tag(None), total.snapshot()), (tag(Some(Stage::Bdev)), bdev.snapshot())];
        log.write(time(second), reading).unwrap();
        for tag in [tag(None), tag(Some(Stage::Bdev))] {
            write!(want, "{tag} {} 1000", (4_100_000_000 + second - 1) * 1000).unwrap();
            for step in new.iter_recorded() {
                write!(want, " {}:{}", step.value_iterated_to(), step.count_at_value()).unwrap();
            }
            want.push('\n');
        }
    }
    (path, want)
}
