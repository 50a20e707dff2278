//! Tests of the view and of the screen, over samples that are made up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use spinblk_perf::{DIGITS, Latency, MAX_NS, Stage};

use super::app::{App, Panel};
use super::draw::Screen;
use super::model::View;
use super::rows::show_rate;
use super::sample::{Sample, Times};
use crate::Error;
use crate::api::{self, BackendStats, Op, OpCounts, ReadAt, StageName, StageTimes};

fn latency(ns: u64, count: u64) -> Latency {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
    histogram.record_n(ns, count).unwrap();
    Latency::from_parts(ns * count, &histogram).unwrap()
}

/// Disks d0, with two queues, and d1, with one, `second` seconds after `start`: each queue has done a thousand reads of 4 KiB
/// in a second, of 100 µs each, a quarter of it in pick-up; and ten reads failed.
fn sample(start: Instant, second: u64) -> Sample {
    let disk = |name: &str, queues: u16| api::DiskInfo {
        name: name.into(),
        kind: "malloc".into(),
        path: None,
        transport: "vhost-user".into(),
        size_bytes: 1 << 20,
        block_size: 512,
        read_only: false,
        attached: name == "d0",
        queue_size: 256,
        queues: (0..queues).map(|index| api::QueueInfo { index, core: 1 }).collect(),
    };
    let disks = vec![disk("d0", 2), disk("d1", 1)];
    let queue = |queue: &api::QueueInfo| api::QueueStats {
        index: queue.index,
        core: queue.core,
        requests: 1000 * second,
        batches: 250 * second,
        batch_sizes: [0; 7],
        ring_full: second,
        interrupts_sent: 10 * second,
        interrupts_suppressed: 0,
        mapping_faults: 0,
        slow: 0,
        backend: BackendStats::default(),
        ops: vec![OpCounts {
            op: Op::Read,
            ios: 1000 * second,
            bytes: 4_096_000 * second,
            errors: 10 * second,
        }],
    };
    let stats = |disk: &api::DiskInfo| api::DiskStats {
        disk: disk.name.clone(),
        queues: disk.queues.iter().map(queue).collect(),
    };
    let mut times = BTreeMap::new();
    for disk in disks.iter().filter(|_| second > 0) {
        for queue in &disk.queues {
            let mut of_queue = Times { total: latency(100_000, 1000 * second), ..Times::default() };
            of_queue.stages[Stage::PickUp as usize] = latency(25_000, 1000 * second);
            of_queue.stages[Stage::Bdev as usize] = latency(75_000, 1000 * second);
            times.insert((disk.name.clone(), queue.index), of_queue);
        }
    }
    let reactor = |core| api::ReactorInfo {
        core,
        busy_ns: 250_000_000 * second,
        idle_ns: 750_000_000 * second,
        iterations: 2_000_000 * second,
        longest_iteration_ns: 70_000,
        enters: 0,
    };
    let sent = start + Duration::from_secs(second);
    Sample {
        at: ReadAt { sent, answered: sent, counted: Duration::from_secs(10 + second) },
        stats: disks.iter().map(stats).collect(),
        disks,
        times,
        reactors: vec![reactor(1)],
        slow: (0..100).map(slow).collect(),
    }
}

fn slow(number: u64) -> api::SlowRecord {
    api::SlowRecord {
        disk: "d0".into(),
        queue: 1,
        core: 1,
        number,
        age_ns: number * 1_000_000_000,
        op: Op::Read,
        ok: number != 1,
        offset_bytes: 8192,
        lba: 16,
        bytes: 4096,
        requests: 1,
        batch_position: 3,
        stages_ns: StageTimes { bdev: 2_000_000, ..StageTimes::default() },
        total_ns: 2_001_000,
        worst_stage: StageName::Bdev,
    }
}

fn app() -> App {
    let (start, mut app) = (Instant::now(), App::new("/run/c.sock".into()));
    app.take(Ok(sample(start, 0)));
    app.take(Ok(sample(start, 1)));
    app
}

fn screen(app: &App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| frame.render_widget(Screen(app), frame.area())).unwrap();
    let cells = &terminal.backend().buffer().content;
    let line = |cells: &[ratatui::buffer::Cell]| {
        cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_string() + "\n"
    };
    cells.chunks(usize::from(width).max(1)).map(line).collect()
}

fn press(app: &mut App, code: KeyCode) {
    app.press(KeyEvent::new(code, KeyModifiers::NONE));
}

fn gone() -> Error {
    Error::Daemon { socket: "/run/c.sock".into(), why: "it closed the connection".into() }
}

#[test]
fn figures_are_those_between_two_samples() {
    let start = Instant::now();
    let view = View::new(Some(&sample(start, 2)), &sample(start, 4));
    assert_eq!((view.span, view.is_since_start), (Duration::from_secs(2), false));
    let d0 = &view.disks[0];
    assert_eq!((d0.rates.iops, d0.rates.bytes_per_s), (2000.0, 8_192_000.0));
    assert!(d0.rates.p50_ns.abs_diff(100_000) < 1000 && d0.rates.p999_ns == d0.rates.p50_ns, "{d0:?}");
    assert_eq!((d0.new_errors, d0.errors), (40, 80));
    let queue = &d0.queues[1];
    assert_eq!((queue.rates.iops, queue.batch, queue.ring_full), (1000.0, 4.0, 2));
    assert_eq!(queue.interrupts_per_s, 10.0);
    let shares: Vec<(&str, f64)> = d0.stages.iter().map(|stage| (stage.name, stage.share)).collect();
    let want = [("pick_up", 0.25), ("submit", 0.0), ("bdev", 0.75), ("return", 0.0), ("interrupt", 0.0)];
    assert_eq!(shares, want);
    assert_eq!(d0.stages[2].mean_ns, 75_000);
    assert_eq!((view.disks[1].rates.iops, view.disks[1].slow.len(), d0.slow.len()), (1000.0, 0, 20));
    assert_eq!((view.reactors[0].busy, view.reactors[0].iterations_per_s), (Some(0.25), 2e6));
}

#[test]
fn without_one_before_they_are_averages_since_it_counts() {
    let start = Instant::now();
    let first = View::new(None, &sample(start, 5));
    assert_eq!((first.span, first.is_since_start), (Duration::from_secs(15), true));
    assert_eq!(first.disks[1].rates.iops, 5000.0 / 15.0);
    let mut reset = sample(start, 1);
    reset.at.counted = Duration::from_millis(500);
    let view = View::new(Some(&sample(start, 0)), &reset);
    assert!(view.is_since_start && view.disks[1].rates.iops == 2000.0, "{view:?}");
    let mut idle = sample(start, 1);
    (idle.times, idle.at.counted) = (BTreeMap::new(), Duration::ZERO);
    assert!(View::new(None, &idle).disks[0].stages.is_empty());
}

#[test]
fn the_screen_shows_all_of_it() {
    let text = screen(&app(), 110, 40);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("spinblk top  /run/c.sock  last 1.0 s  "), "{text}");
    let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    assert_eq!(words(lines[1]), ["disk", "IOPS", "MB/s", "p50", "p99", "p99.9", "errors", "state"]);
    let d0 = ["> ", "d0", "2000", "8.2", "100", "µs", "100", "µs", "100", "µs", "20", "(20)", "attached"];
    assert_eq!(words(lines[2])[1..], d0[1..], "{text}");
    assert!(lines[2].starts_with("> d0") && lines[3].starts_with("  d1"), "{text}");
    for want in [
        "stages of d0",
        "bdev       ███████████████       75.0 %  75.",
        "queues of d0",
        "reactors",
        "   1    25.0         2.00M            70.0 µs",
        "slow requests of d0",
        "read failed  bdev         1.00 s  2.00 ms",
    ] {
        assert!(text.contains(want), "{want} is not in\n{text}");
    }
}

#[test]
fn keys_select_disks_and_panels() {
    let mut app = app();
    press(&mut app, KeyCode::Char('j'));
    assert!(screen(&app, 100, 30).contains("> d1") && screen(&app, 100, 30).contains("stages of d1"));
    press(&mut app, KeyCode::Down);
    assert_eq!(app.selected(), 1, "there are no more");
    press(&mut app, KeyCode::Up);
    press(&mut app, KeyCode::Char('k'));
    assert_eq!(app.selected(), 0);
    press(&mut app, KeyCode::Tab);
    assert!(app.panel == Panel::Stages && !screen(&app, 100, 30).contains("reactors\n"));
    press(&mut app, KeyCode::BackTab);
    press(&mut app, KeyCode::BackTab);
    assert_eq!(app.panel, Panel::Slow);
    assert!(screen(&app, 100, 30).contains("slow requests of d0"));
    press(&mut app, KeyCode::Char('?'));
    assert!(screen(&app, 100, 30).contains("ctrl-c") && !screen(&app, 100, 30).contains("> d0"));
    press(&mut app, KeyCode::Char('x'));
    assert!(screen(&app, 100, 30).contains("> d0") && !app.quit);
    app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(app.quit);
}

#[test]
fn a_daemon_that_goes_away_is_told_and_another_starts_anew() {
    let mut app = app();
    app.take(Err(gone()));
    let text = screen(&app, 140, 30);
    assert!(text.contains("the daemon is gone") && text.contains("it closed the connection"), "{text}");
    assert!(text.contains("> d0"), "the last figures stay: {text}");
    // Its counters are lower, which is no reason to subtract.
    app.take(Ok(sample(Instant::now(), 1)));
    assert!(app.lost.is_none() && app.view.as_ref().unwrap().is_since_start);
}

#[test]
fn every_size_will_do() {
    let mut app = app();
    let empty = App::new(String::new());
    for (width, height) in [(40, 10), (1, 1), (0, 0), (3, 200), (300, 2), (20, 5), (80, 24)] {
        screen(&empty, width, height);
        app.take(Err(gone()));
        for _ in 0..2 * Panel::ALL.len() {
            press(&mut app, KeyCode::Tab);
            screen(&app, width, height);
        }
        press(&mut app, KeyCode::Char('?'));
        screen(&app, width, height);
        press(&mut app, KeyCode::Char('?'));
    }
    app.take(Ok(sample(Instant::now(), 1)));
    let small = screen(&app, 40, 10);
    assert!(small.contains("> d0") && small.contains("stages of d0"), "{small}");
}

#[test]
fn the_selected_of_many_disks_is_in_sight() {
    let (mut app, mut many) = (App::new(String::new()), sample(Instant::now(), 1));
    let disk = many.disks[0].clone();
    many.disks = (0..50).map(|n| api::DiskInfo { name: format!("disk{n}"), ..disk.clone() }).collect();
    app.take(Ok(many));
    (0..40).for_each(|_| press(&mut app, KeyCode::Down));
    let text = screen(&app, 100, 24);
    assert!(text.contains("> disk40") && text.contains("stages of disk40"), "{text}");
    let whole = super::plain(&app, 100);
    assert!(whole.contains("  disk0 ") && whole.contains("  disk49 ") && whole.contains("slow requests"));
}

#[test]
fn rates_for_people() {
    let cases = [
        (0.0, "0"),
        (7.25, "7.2"),
        (99.96, "100"),
        (9_999.4, "9999"),
        (9_999.6, "10.0k"),
        (999_949.0, "999.9k"),
        (1_234_567.0, "1.23M"),
    ];
    for (rate, want) in cases {
        assert_eq!(show_rate(rate), want);
    }
}
