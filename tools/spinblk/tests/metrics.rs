//! The Prometheus endpoint: what a scraper gets, and that Prometheus' own tool finds nothing wrong with it.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

mod control_rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use control_rig::{fill, record, state};
use spinblk_cli::control::{Control, Endpoints, Limits, MetricsAddress};
use spinblk_cli::metrics::render;
use spinblk_perf::{OpKind, QueueBoard};

struct Served {
    address: SocketAddr,
    boards: Vec<Arc<QueueBoard>>,
    _control: Control,
}

fn serve(limits: Limits) -> Served {
    let (state, boards) = state();
    let metrics = Some(MetricsAddress::parse("127.0.0.1:0").unwrap());
    let bound = Endpoints { socket: None, metrics }.bind().unwrap();
    let address = bound.metrics_address().unwrap();
    Served { address, boards, _control: Control::start(bound, state, &[], limits).unwrap().unwrap() }
}

impl Served {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Head and body of the answer.
    fn ask(&self, request: &[u8]) -> (String, String) {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        answer(stream)
    }
}

fn answer(mut stream: impl Read) -> (String, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(head.ends_with("\r\nConnection: close"), "{head}");
    (head.into(), body.into())
}

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";

#[test]
fn promtool_finds_nothing_to_blame() {
    let (mut state, boards) = state();
    state.disks[0].name = "a \"name\" with \\ and\nmore".into();
    fill(&boards);
    OpKind::ALL.into_iter().for_each(|kind| record(&boards[2], kind, 1 << 20, 2_000_000, 1));
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = spawned.expect("promtool is needed: install the Debian package `prometheus`");
    promtool.stdin.take().unwrap().write_all(render(&state).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_scraper_gets_the_metrics() {
    let served = serve(Limits::default());
    fill(&served.boards);
    let (head, body) = served.ask(GET);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    for line in [
        "# TYPE spinblk_ios_total counter",
        "spinblk_ios_total{disk=\"d0\",queue=\"0\",op=\"read\"} 4",
        "spinblk_io_bytes_total{disk=\"d0\",queue=\"1\",op=\"write\"} 32768",
        "spinblk_io_errors_total{disk=\"d1\",queue=\"0\",op=\"other\"} 0",
        "spinblk_bounced_ios_total{disk=\"d0\",queue=\"1\",core=\"2\"} 4",
        "spinblk_disk_attached{disk=\"d0\"} 1",
        "spinblk_disk_attached{disk=\"d1\"} 0",
        "spinblk_reactor_busy_seconds_total{core=\"1\"} 1.5",
        "spinblk_reactor_longest_iteration_seconds{core=\"2\"} 0.000009",
        "spinblk_request_duration_seconds_count{disk=\"d0\",op=\"write\",stage=\"total\"} 64",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    assert!(!body.contains("op=\"discard\",stage"), "of what never happened there is no histogram");
    assert_eq!(served.ask(b"GET /metrics?name=x HTTP/1.0\r\n\r\n").1, body);
}

#[test]
fn buckets_are_exact_where_boards_split_them() {
    let (state, boards) = state();
    let at = 1 << 20;
    // To both sides of 2^20 ns, as far as the board tells values apart.
    let histogram = |count: u32, ns: u64| record(&boards[0], OpKind::Read, 512, ns, count);
    histogram(3, at - 2000);
    histogram(5, at + 2000);
    histogram(7, 20_000_000_000);
    let text = render(&state);
    let bucket = |le: &str| {
        let start = format!(
            "spinblk_request_duration_seconds_bucket{{disk=\"d0\",op=\"read\",stage=\"total\",le=\"{le}\"}} "
        );
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((bucket("0.000001023"), bucket("0.000524287")), (0, 0));
    assert_eq!(bucket("0.001048575"), 3);
    assert_eq!(bucket("0.002097151"), 8);
    assert_eq!((bucket("8.589934591"), bucket("+Inf")), (8, 15));
    let buckets =
        text.lines().filter(|line| line.contains("_bucket") && line.contains("stage=\"total\"")).count();
    assert_eq!(buckets, 25);
}

#[test]
fn counters_never_go_back() {
    let (mut state, boards) = state();
    fill(&boards);
    let before = render(&state);
    let reset = br#"{"jsonrpc":"2.0","id":1,"method":"reset"}"#;
    assert!(!spinblk_cli::control::answer(reset, &mut state, 1000).bytes.is_empty());
    assert_eq!(render(&state), before);
}

#[test]
fn everything_else_is_refused() {
    let served = serve(Limits::default());
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    let cases: [(&[u8], &str); 9] = [
        (b"GET / HTTP/1.1\r\n\r\n", "404 "),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", "404 "),
        (b"POST /other HTTP/1.1\r\n\r\n", "404 "),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "405 "),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "405 "),
        (b"nonsense\r\n\r\n", "400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00", "400 "),
        (long.as_bytes(), "431 "),
        (many.as_bytes(), "431 "),
    ];
    for (request, status) in cases {
        let (head, _) = served.ask(request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(status == "405 ", head.contains("\r\nAllow: GET\r\n"));
    }
}

#[test]
fn a_request_may_come_in_pieces_but_not_for_long() {
    let served = serve(Limits { partial: Duration::from_millis(300), ..Limits::default() });
    let mut stream = served.connect();
    stream.set_nodelay(true).unwrap();
    GET.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
    assert!(answer(stream).0.starts_with("HTTP/1.1 200"));
    let mut half = served.connect();
    half.write_all(&GET[..20]).unwrap();
    assert_eq!(half.read(&mut [0]).unwrap(), 0);
    // More than there is room for: they wait, and the silent ones are dropped in time.
    let silent: Vec<TcpStream> = (0..40).map(|_| served.connect()).collect();
    assert!(served.ask(GET).0.starts_with("HTTP/1.1 200"));
    drop(silent);
}

#[test]
fn a_unix_socket_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let (state, _) = state();
    let metrics = MetricsAddress::parse(&format!("unix:{}", path.display()));
    let bound = Endpoints { socket: None, metrics }.bind().unwrap();
    let control = Control::start(bound, state, &[], Limits::default()).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(GET).unwrap();
    assert!(answer(stream).0.starts_with("HTTP/1.1 200"));
    drop(control);
    assert!(!path.exists());
}
