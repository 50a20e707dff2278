//! `spinblk hist` from outside, over made-up logs.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use assert_cmd::cargo::cargo_bin;
use hdrhistogram::Histogram;
use spinblk_cli::api::encode_histogram;
use spinblk_cli::hist::{LogWriter, Tag};
use spinblk_perf::{DIGITS, MAX_NS, OpKind, SizeClass, Stage};

fn hist(args: &[&str]) -> Output {
    Command::new(cargo_bin("spinblk")).arg("hist").args(args).env_remove("SPINBLK_LOG").output().unwrap()
}

/// What a run that succeeds prints.
fn printed(args: &[&str]) -> String {
    let output = hist(args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The message of a run that fails as a wrong question does.
fn refused(args: &[&str]) -> String {
    let output = hist(args);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    text(&output.stderr).trim_end().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn histogram(values: impl Iterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, MAX_NS, DIGITS).unwrap();
    values.for_each(|value| histogram.record(value).unwrap());
    histogram
}

/// A log of three seconds: disk d0 reads on two queues, by stage, and writes on one, without; disk d1 flushes. The block
/// device takes `bdev_ns` for a read, and ten times as long for one in fifty.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, name: &str, bdev_ns: u64) -> String {
        let path = self.path(name);
        let mut log = LogWriter::create(&path).unwrap();
        for second in 0..3u64 {
            let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second);
            let mut write = |tag: Option<Tag>, histogram: &Histogram<u64>| {
                log.interval(&tag.unwrap(), start, Duration::from_secs(1), histogram).unwrap();
            };
            for queue in 0..2 {
                let bdev = |n: u64| (bdev_ns + n % 100) * if n.is_multiple_of(50) { 10 } else { 1 };
                let tag = |stage| Tag::new("d0", queue, OpKind::Read, Some(SizeClass::To4KiB), stage);
                write(tag(None), &histogram((0..10_000).map(|n| bdev(n) + 1000)));
                let stages = [(Stage::PickUp, 200), (Stage::Submit, 500), (Stage::Return, 300)];
                for (stage, ns) in stages {
                    write(tag(Some(stage)), &histogram((0..10_000).map(|_| ns)));
                }
                write(tag(Some(Stage::Bdev)), &histogram((0..10_000).map(bdev)));
            }
            let of_size = |class| Tag::new("d0", 0, OpKind::Write, class, None);
            write(of_size(Some(SizeClass::To512)), &histogram((0..100).map(|n| 20_000 + n * 10)));
            write(of_size(Some(SizeClass::Larger)), &histogram((0..100).map(|n| 80_000 + n * 10)));
            // The same ones again, which must not count twice.
            write(of_size(None), &histogram((0..200).map(|_| 50_000)));
            write(Tag::new("d1", 0, OpKind::Flush, None, None), &histogram(std::iter::once(2_000_000)));
        }
        log.flush().unwrap();
        path.display().to_string()
    }
}

/// The lines of `text` without the spaces around them.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

#[test]
fn show_prints_percentiles_bars_and_stages() {
    let made = Made::new();
    let log = made.log("a.hlog", 10_000);
    let text = printed(&["show", &log, "--op", "read", "--stage"]);
    let want = "              count     mean      p50      p90     p99   p99.9  p99.99     max
 d0 read      60000  12.9 µs  11.1 µs  11.1 µs  101 µs  102 µs  102 µs  102 µs
   pick_up    60000   200 ns   200 ns   200 ns  200 ns  200 ns  200 ns  200 ns
   submit     60000   501 ns   501 ns   501 ns  501 ns  501 ns  501 ns  501 ns
   bdev       60000  11.9 µs  10.1 µs  10.1 µs  100 µs  101 µs  101 µs  101 µs
   return     60000   301 ns   301 ns   301 ns  301 ns  301 ns  301 ns  301 ns
   interrupt      0     0 ns     0 ns     0 ns    0 ns    0 ns    0 ns    0 ns

d0 read, requests by latency:
 9.74 µs - 11.6 µs  ";
    assert!(text.starts_with(want), "{text}");
    let end = "
 stage         mean   share  slowest 1 %   share
 pick_up     200 ns   1.6 %       200 ns   0.2 %
 submit      501 ns   3.9 %       501 ns   0.5 %
 bdev       11.9 µs  92.2 %       101 µs  99.0 %
 return      301 ns   2.3 %       301 ns   0.3 %
 interrupt     0 ns   0.0 %         0 ns   0.0 %
p99: 99 % of the time in bdev; mean: 92 % of the time in bdev
";
    assert!(text.ends_with(end), "{text}");
    let bars: Vec<&str> = text.lines().filter(|line| line.contains('█')).collect();
    assert!(bars[0].ends_with(" 58800  98.000 %"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn sizes_and_queues_are_summed_up_but_not_twice() {
    let made = Made::new();
    let log = made.log("a.hlog", 10_000);
    let text = printed(&["show", &log]);
    let counts: Vec<(&str, &str)> = lines(&text)[1..4]
        .iter()
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.nth(1).unwrap(), words.next().unwrap())
        })
        .collect();
    assert_eq!(counts, [("read", "60000"), ("write", "600"), ("flush", "3")], "{text}");
    assert!(!text.contains("pick_up    60000"), "stages have rows only where they are asked for: {text}");
    let of_d1 = printed(&["show", &log, "--disk", "d1"]);
    assert!(of_d1.contains("d1 flush") && !of_d1.contains("d0"), "{of_d1}");
}

#[test]
fn json_holds_the_same_numbers() {
    let made = Made::new();
    let log = made.log("a.hlog", 10_000);
    let json: serde_json::Value = serde_json::from_str(&printed(&["show", &log, "--json"])).unwrap();
    let read = &json["ops"][0];
    assert_eq!((&read["disk"], &read["op"]), (&"d0".into(), &"read".into()));
    assert_eq!((read["count"].as_u64(), read["p50_ns"].as_u64()), (Some(60_000), Some(11_071)));
    assert_eq!(read["stages"][2]["stage"], "bdev");
    assert!((99.0..99.1).contains(&read["stages"][2]["tail_percent"].as_f64().unwrap()), "{read}");
    assert_eq!(read["verdict"], "p99: 99 % of the time in bdev; mean: 92 % of the time in bdev");
    assert!(json["ops"][1]["verdict"].is_null() && json["ops"][1]["stages"] == serde_json::json!([]));
}

#[test]
fn compare_marks_what_differs_and_names_the_stage() {
    let made = Made::new();
    let (a, b) = (made.log("a.hlog", 10_000), made.log("b.hlog", 11_000));
    let text = printed(&["compare", &a, &b, "--op", "read"]);
    let want = "\
d0 read: 60000 requests in A, 60000 in B
               A        B    B/A
 mean    12.9 µs  14.0 µs  1.091           slower
 p50     11.1 µs  12.1 µs  1.092           slower
 p90     11.1 µs  12.1 µs  1.086           slower
 p99      101 µs   111 µs  1.096           slower
 p99.9    102 µs   112 µs  1.095           slower
 p99.99   102 µs   112 µs  1.095  too few samples
 max      102 µs   112 µs  1.095
 stage       mean A   mean B     B - A  slowest 1 % A  slowest 1 % B     B - A
 pick_up     200 ns   200 ns      0 ns         200 ns         200 ns      0 ns
 submit      501 ns   501 ns      0 ns         501 ns         501 ns      0 ns
 bdev       11.9 µs  13.0 µs  +1.18 µs         101 µs         110 µs  +9.73 µs
 return      301 ns   301 ns      0 ns         301 ns         301 ns      0 ns
 interrupt     0 ns     0 ns      0 ns           0 ns           0 ns      0 ns
mean: slower, most in bdev (+1.18 µs)
p99: slower, most in bdev (+9.73 µs)
";
    assert_eq!(text, want);
    let other_way = printed(&["compare", &b, &a, "--op", "read"]);
    assert!(other_way.contains("p99: faster, most in bdev (-9.73 µs)"), "{other_way}");
}

#[test]
fn compare_marks_nothing_in_equal_logs() {
    let made = Made::new();
    let (a, b) = (made.log("a.hlog", 10_000), made.log("b.hlog", 10_000));
    let text = printed(&["compare", &a, &b]);
    assert!(!text.contains("slower") && !text.contains("faster"), "{text}");
    assert_eq!(text.matches("no difference that matters").count(), 2, "{text}");
    // Three flushes tell nothing about any percentile, nor about the mean.
    let flushes = text.split("d1 flush").nth(1).unwrap();
    assert_eq!(flushes.matches("too few samples").count(), 6, "{text}");
}

#[test]
fn compare_takes_a_difference_below_the_precision_for_none() {
    let made = Made::new();
    // A bucket at 10 µs is 64 ns wide.
    let (a, b) = (made.log("a.hlog", 10_000), made.log("b.hlog", 10_010));
    let text = printed(&["compare", &a, &b, "--op", "read"]);
    assert!(!text.contains("slower") && !text.contains("faster"), "{text}");
}

#[test]
fn compare_tells_what_only_one_has() {
    let made = Made::new();
    let (a, b) = (made.log("a.hlog", 10_000), made.path("b.hlog").display().to_string());
    let mut log = LogWriter::create(Path::new(&b)).unwrap();
    let tag = Tag::new("d7", 0, OpKind::Discard, None, None).unwrap();
    log.interval(&tag, SystemTime::now(), Duration::from_secs(1), &histogram([5].into_iter())).unwrap();
    drop(log);
    let text = printed(&["compare", &a, &b]);
    assert_eq!(text.lines().last(), Some("d7 discard: only in B"), "{text}");
    assert!(text.contains("d0 read: only in A") && text.contains("d1 flush: only in A"), "{text}");
}

/// The texts of an SVG file, which must be well-formed.
fn labels(path: &Path) -> Vec<String> {
    let svg = std::fs::read_to_string(path).unwrap();
    let tree = roxmltree::Document::parse(&svg).unwrap();
    assert_eq!(tree.root_element().tag_name().name(), "svg");
    let texts = tree.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")));
    texts.filter_map(|node| node.text()).map(|text| text.trim().to_string()).collect()
}

#[test]
fn the_picture_holds_all_panels_and_their_labels() {
    let made = Made::new();
    let (log, svg) = (made.log("a.hlog", 10_000), made.path("all.svg"));
    assert_eq!(printed(&["plot", &log, "-o", &svg.display().to_string()]), "");
    let labels = labels(&svg);
    for want in [
        "Latency by percentile",
        "requests that took no longer",
        "99.9 %",
        "Time by stage",
        "share of the time, %",
        "d0 read, slowest 1 %: 102 µs",
        "99 %",
        "pick_up",
        "Latency over time: d0 read",
        "Latency over time: d0 write",
        "Latency over time: d1 flush",
        "time, s",
        "latency",
        "requests in a cell",
        "20.0 µs",
    ] {
        assert!(labels.iter().any(|label| label == want), "{want}: {labels:?}");
    }
}

#[test]
fn one_kind_is_drawn_alone() {
    let made = Made::new();
    let (log, svg) = (made.log("a.hlog", 10_000), made.path("one.svg"));
    let titles = ["Latency by percentile", "Time by stage", "Latency over time: d0 read"];
    for (index, kind) in ["percentiles", "stages", "heatmap"].into_iter().enumerate() {
        printed(&["plot", &log, "-o", &svg.display().to_string(), "--kind", kind, "--op", "read"]);
        let labels = labels(&svg);
        for (other, title) in titles.into_iter().enumerate() {
            assert_eq!(labels.iter().any(|label| label == title), other == index, "{kind}: {labels:?}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_told_in_one_line() {
    let made = Made::new();
    let log = made.log("a.hlog", 10_000);
    let json = made.path("report.json");
    std::fs::write(&json, "{\"disks\": []}").unwrap();
    let json = json.display().to_string();
    let cut = made.path("cut.hlog");
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 9]).unwrap();
    let cut = cut.display().to_string();
    let empty = made.path("empty.hlog");
    drop(LogWriter::create(&empty).unwrap());
    let empty = empty.display().to_string();
    let holds = "holds nothing of that; it has d0 read, d0 write, d1 flush";
    let cases = [
        (vec!["show", "/nowhere/x"], "error: cannot read /nowhere/x: ".to_string()),
        (vec!["show", &json], format!("error: {json}: a JSON report holds percentiles, not the histograms")),
        (vec!["show", &cut], format!("error: {cut}:")),
        (vec!["compare", &log, &cut], format!("error: {cut}:")),
        (vec!["show", &empty], format!("error: {empty}: the log holds no interval yet")),
        (vec!["show", &log, "--disk", "d9"], format!("error: {log}: {holds}")),
        (
            vec!["show", &log, "--op", "reed"],
            "error: invalid value 'reed' for '--op <OP>': allowed: read,".into(),
        ),
        (
            vec!["plot", &log, "-o", "/nowhere/x.svg", "--kind", "stages", "--op", "write"],
            format!("error: {log}: the source does not tell stages"),
        ),
    ];
    for (args, want) in cases {
        let message = refused(&args);
        assert!(message.starts_with(&want), "{message}\n{want}");
    }
    assert!(
        refused(&["show", &cut]).ends_with("the line is cut short; remove it to read what stands before")
    );
    let nobody = hist(&["show", "unix:/nowhere/x.sock"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("/nowhere/x.sock"), "{}", text(&nobody.stderr));
    let unwritable = hist(&["plot", &log, "-o", "/nowhere/x.svg"]);
    assert_eq!(unwritable.status.code(), Some(1));
    assert!(text(&unwritable.stderr).contains("cannot write the report /nowhere/x.svg"));
}

/// Answers each client's one question about histograms as a daemon does, until the last of `questions`.
fn daemon(path: &Path, questions: usize) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    let entry = |stage: &str, values: &Histogram<u64>| {
        serde_json::json!({
            "disk": "d0", "queue": 0, "op": "read", "class": "to_4k", "stage": stage,
            "count": values.len(), "sum_ns": 0, "min_ns": 0, "p50_ns": 0, "p90_ns": 0, "p99_ns": 0,
            "p999_ns": 0, "p9999_ns": 0, "max_ns": 0, "histogram": encode_histogram(values),
        })
    };
    let fast = histogram((0..100).map(|_| 100));
    let slow = histogram((0..100).map(|_| 200));
    let entries = [entry("total", &slow), entry("submit", &fast), entry("bdev", &fast)];
    let result = serde_json::json!({ "since_ms": 1000, "entries": entries });
    std::thread::spawn(move || {
        for _ in 0..questions {
            let (mut client, _) = listener.accept().unwrap();
            let mut asked = serde_json::Deserializer::from_reader(&client).into_iter::<serde_json::Value>();
            let id = asked.next().unwrap().unwrap()["id"].clone();
            let answer = serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": result });
            client.write_all(answer.to_string().as_bytes()).unwrap();
        }
    })
}

#[test]
fn a_running_daemon_is_asked_on_its_socket() {
    let made = Made::new();
    let socket = made.path("control.sock");
    let daemon = daemon(&socket, 4);
    let plain = socket.display().to_string();
    let text = printed(&["show", &plain]);
    assert!(text.contains(" d0 read    100  200 ns"), "{text}");
    assert!(text.contains(" submit     100 ns  50.0 %"), "{text}");
    assert_eq!(printed(&["show", &format!("unix:{plain}")]), text);
    // What was when cannot be asked.
    let svg = made.path("x.svg").display().to_string();
    printed(&["plot", &plain, "-o", &svg]);
    assert!(!labels(Path::new(&svg)).iter().any(|label| label.starts_with("Latency over time")));
    let message = refused(&["plot", &plain, "-o", &svg, "--kind", "heatmap"]);
    assert!(message.ends_with("the source does not tell times; draw another --kind"), "{message}");
    daemon.join().unwrap();
}
