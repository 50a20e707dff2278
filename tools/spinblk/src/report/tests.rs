//! Tests of the report: numbers in, text and JSON out.

use std::sync::Arc;

use spinblk_perf::{BackendCounters, Clock, Group, OpKind, QueueBoard, Stamps};

use super::text::show_ns;
use super::*;

fn export() -> ExportReport {
    let (board, clock) = (QueueBoard::new(), Clock::get());
    let ticks_of_us = |us: u64| ((us * 1000) << 20) / clock.to_ns(1 << 20);
    for us in 1..=1000u64 {
        let stamps = Stamps { returned: ticks_of_us(us), ..Stamps::default() };
        let group =
            Group { kind: OpKind::Read, ok: us != 7, requests: 1, bytes: 4096, stamps, ..Group::default() };
        board.record(&group, &clock);
    }
    (0..400).for_each(|batch| board.batch(if batch < 200 { 2 } else { 3 }, false));
    (0..300).for_each(|_| board.interrupt_sent());
    (0..100).for_each(|_| board.interrupt_suppressed());
    board.backend(BackendCounters { fixed_buffer_ios: 999, ..BackendCounters::default() });
    let board = Arc::new(board);
    let queue = |index, core| ExportQueue { index, core, board: Arc::clone(&board) };
    ExportReport {
        name: "d0".into(),
        device_path: Some("/dev/vda".into()),
        umem: true,
        queues: vec![queue(0, 1), queue(1, 2)],
        problems: Vec::new(),
    }
}

fn report() -> Report {
    let reactor = ReactorReport {
        core: 1,
        busy_ns: 250,
        idle_ns: 750,
        iterations: 10,
        longest_iteration_ns: 70_000,
        enters: 3,
    };
    Report::new(vec![DiskReport::new(&export())], vec![reactor], Vec::new())
}

#[test]
fn the_text_shows_operations_queues_and_reactors() {
    let text = report().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "d0 (/dev/vda, umem)");
    assert!(lines[1].contains("p99.9"), "{text}");
    let row: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(row[..4], ["read", "2000", "7.8", "2"], "{text}");
    assert!(lines[2].contains(" 500 µs") && lines[2].ends_with("1.00 ms"), "{text}");
    let queue = "queue 0 on core 1: 1000 requests in 400 batches (2.5 each), interrupts 300 sent, 100 suppressed, \
                 999 fixed-buffer I/Os";
    assert!(lines[3].contains("pick-up") && lines[3].ends_with("interrupt"), "{text}");
    let row: Vec<&str> = lines[4].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(row, ["read", "0 ns / 0 ns", "0 ns / 0 ns", "0 ns / 0 ns", "500 µs / 991 µs", "-"], "{text}");
    assert_eq!(lines[5].trim(), queue);
    assert_eq!(lines[7], "reactor on core 1: 25.0 % busy, 10 iterations, the longest 70.0 µs, 3 enters");
    assert_eq!(lines.len(), 8, "only operations that happened: {text}");
}

#[test]
fn what_seldom_happens_is_shown_when_it_did() {
    let mut export = export();
    let rare =
        BackendCounters { bounced_ios: 7, retries: 3, no_space: 1, target_failures: 2, ..Default::default() };
    let board = QueueBoard::new();
    board.backend(rare);
    board.backend(BackendCounters { fixed_buffer_ios: 999, ..BackendCounters::default() });
    export.queues[1].board = Arc::new(board);
    let report = Report::new(vec![DiskReport::new(&export)], Vec::new(), Vec::new());
    let text = report.to_string();
    let [first, second] = text.lines().filter(|line| line.contains("queue")).collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert!(first.ends_with("999 fixed-buffer I/Os"), "{text}");
    let rare =
        "999 fixed-buffer I/Os, 7 bounced, 3 retries, 1 failed for want of space, 2 failed by the target";
    assert!(second.ends_with(rare), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    let disk = &json["disks"][0];
    assert_eq!((&disk["bounced_ios"], &disk["target_failures"]), (&7.into(), &2.into()));
    assert_eq!((&disk["queues"][0]["no_space"], &disk["queues"][1]["no_space"]), (&0.into(), &1.into()));
}

#[test]
fn a_disk_without_requests_says_so() {
    let mut export = export();
    (export.queues, export.device_path) = (Vec::new(), None);
    let text = Report::new(vec![DiskReport::new(&export)], Vec::new(), Vec::new()).to_string();
    assert_eq!(text, "d0 (no device node, umem)\n  no requests\n");
}

#[test]
fn the_json_is_written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    check_writable(&path).unwrap();
    report().write_json(&path).unwrap();
    report().write_json(&path).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["disks"][0]["ops"]["read"]["ios"], 2000);
    assert_eq!(json["disks"][0]["ops"]["flush"]["ios"], 0);
    assert_eq!(json["disks"][0]["block_device"], "/dev/vda");
    assert_eq!(json["disks"][0]["fixed_buffer_ios"], 1998);
    assert_eq!(json["disks"][0]["queues"][1]["core"], 2);
    assert_eq!(json["reactors"][0]["busy_ns"], 250);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    let bad = dir.path().join("no/report.json");
    assert!(matches!(check_writable(&bad), Err(Error::Report { .. })));
    assert!(matches!(check_writable(dir.path()), Err(Error::Report { .. })));
}

#[test]
fn times_for_people() {
    let cases = [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (9_994, "9.99 µs"),
        (12_345, "12.3 µs"),
        (123_456, "123 µs"),
        (999_600, "1.00 ms"),
        (4_560_000, "4.56 ms"),
        (100_000_000_000, "100 s"),
    ];
    for (ns, want) in cases {
        assert_eq!(show_ns(ns), want, "{ns}");
    }
}
