//! Clients that are many, hostile or stuck: each ends its own connection at worst, and the others are answered.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

mod control_rig;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use control_rig::{Served, fill, serve};
use serde_json::{Value, json};
use spinblk_cli::control::Limits;

/// Limits that a test can wait for.
fn impatient() -> Limits {
    let soon = Duration::from_millis(200);
    Limits { partial: soon, stalled: soon, ..Limits::default() }
}

fn is_served(served: &Served) {
    assert_eq!(served.client().call("version", json!({})).unwrap()["program"], "spinblk");
}

/// What the daemon says until it closes.
fn rest(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    // A daemon that closes on a client which still sends may reset the connection, after its last words.
    let end = stream.read_to_end(&mut text).err().map_or(ErrorKind::ConnectionReset, |e| e.kind());
    assert_eq!(end, ErrorKind::ConnectionReset, "it does not close");
    String::from_utf8(text).unwrap()
}

#[test]
fn a_thousand_clients_one_after_the_other() {
    let served = serve(Limits::default());
    for n in 0..1000 {
        let request = json!({ "jsonrpc": "2.0", "id": n, "method": "disks" }).to_string();
        assert_eq!(served.client().exchange(&request)["id"], n);
    }
}

#[test]
fn two_hundred_clients_at_once_and_more_than_there_is_room_for() {
    let served = serve(Limits { clients: 128, ..Limits::default() });
    // All have asked before any answer is read; those without a place get it when another leaves.
    let asked = Barrier::new(200);
    std::thread::scope(|scope| {
        for n in 0..200 {
            let (served, asked) = (&served, &asked);
            scope.spawn(move || {
                let mut client = served.client();
                let request = json!({ "jsonrpc": "2.0", "id": n, "method": "stats" }).to_string();
                client.send(request.as_bytes());
                asked.wait();
                assert_eq!(client.answer().unwrap()["id"], n);
            });
        }
    });
}

#[test]
fn a_client_waits_until_there_is_a_place() {
    let served = serve(Limits { clients: 2, ..Limits::default() });
    let (mut a, mut b, mut c) = (served.client(), served.client(), served.client());
    assert!(a.call("version", json!({})).is_ok() && b.call("version", json!({})).is_ok());
    c.send(br#"{"jsonrpc":"2.0","id":3,"method":"version"}"#);
    c.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let waiting = c.stream.read(&mut [0]).unwrap_err();
    assert_eq!(waiting.kind(), ErrorKind::WouldBlock);
    drop(a);
    c.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(c.answer().unwrap()["id"], 3);
}

#[test]
fn a_client_that_never_reads_is_dropped_and_holds_up_nobody() {
    let served = serve(impatient());
    fill(&served.boards);
    let mut stuck = served.client();
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "schema" }).to_string();
    // Until the daemon takes no more, and then until it has had enough.
    let sent = std::iter::repeat_with(|| stuck.stream.write_all(request.as_bytes())).find_map(Result::err);
    // Not its own patience, which would be WouldBlock.
    assert!(matches!(sent.unwrap().kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
    is_served(&served);
}

#[test]
fn a_stuck_client_keeps_only_itself_waiting() {
    let served = serve(Limits::default());
    let stuck = served.client();
    stuck.stream.set_nonblocking(true).unwrap();
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "schema" }).to_string();
    while (&stuck.stream).write(request.as_bytes()).is_ok() {}
    (0..100).for_each(|_| is_served(&served));
    // It is not dropped yet: who reads on gets all that it asked for.
    stuck.stream.set_nonblocking(false).unwrap();
    stuck.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers =
        serde_json::Deserializer::from_reader(std::io::BufReader::new(&stuck.stream)).into_iter();
    let whole =
        answers.by_ref().filter(|answer: &Result<Value, _>| answer.as_ref().is_ok_and(|a| a["id"] == 1));
    assert!(whole.count() > 3);
}

#[test]
fn half_a_request_is_not_kept_for_long_and_a_quiet_client_is() {
    let served = serve(impatient());
    let mut quiet = served.client();
    assert!(quiet.call("version", json!({})).is_ok());
    for half in ["{\"jsonrpc\"", "[", "{\"a\":\"", "[[[[[[ "] {
        let mut client = served.client();
        client.send(half.as_bytes());
        assert_eq!(rest(&mut client.stream), "");
    }
    // A drop now and then does not help.
    let mut slow = served.client();
    slow.send(b"[");
    let give_up = Instant::now() + Duration::from_secs(60);
    while slow.stream.write_all(b" ").is_ok() {
        assert!(Instant::now() < give_up);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(quiet.call("version", json!({})).is_ok());
}

#[test]
fn a_request_that_ends_with_its_stream_is_told() {
    let served = serve(Limits::default());
    let mut client = served.client();
    client.send(br#" {"jsonrpc":"2.0","id":1,"method":"version"} {"jsonrpc":"#);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.answer().unwrap()["id"], 1);
    let told = client.answer().unwrap();
    assert_eq!((&told["error"]["code"], &told["id"]), (&json!(-32700), &Value::Null));
    assert_eq!(client.answer(), None);
}

#[test]
fn what_is_no_request_ends_the_connection_with_a_word() {
    let served = serve(Limits { request_bytes: 10_000, ..Limits::default() });
    let long = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}", "x".repeat(20_000));
    let endless = format!("[\"{}", "x".repeat(1 << 20));
    let cases: [(&[u8], i32); 9] = [
        (b"GET / HTTP/1.1\r\n\r\n", -32700),
        (b"5 ", -32700),
        (b"\xff\xfe{}", -32700),
        (b"{\"a\": nonsense}", -32700),
        (b"{\"\xff\": 1}", -32700),
        (b"{]", -32700),
        (&[b'['; 5000], -32700),
        (long.as_bytes(), -32600),
        (endless.as_bytes(), -32600),
    ];
    for (bytes, code) in cases {
        let mut client = served.client();
        // What the daemon no longer wants cannot all be sent.
        let _ = client.stream.write_all(bytes);
        let told: Value = serde_json::from_str(&rest(&mut client.stream)).unwrap();
        assert_eq!((&told["error"]["code"], &told["id"]), (&json!(code), &Value::Null), "{told}");
        is_served(&served);
    }
}

#[test]
fn a_method_name_of_any_length_makes_a_short_answer() {
    let served = serve(Limits::default());
    let mut client = served.client();
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "é".repeat(400_000) }).to_string();
    assert!(client.exchange(&request).to_string().len() < 1000);
    assert!(client.call("version", json!({})).is_ok());
}

#[test]
fn clients_that_leave_at_any_moment() {
    let served = serve(Limits::default());
    let request = br#"{"jsonrpc":"2.0","id":1,"method":"schema"}"#;
    for cut in 0..=request.len() {
        let mut client = served.client();
        client.send(&request[..cut]);
    }
    is_served(&served);
}

#[test]
fn the_end_comes_at_once_whatever_clients_are_at() {
    let mut served = serve(Limits::default());
    let (mut half, stuck) = (served.client(), served.client());
    half.send(b"{");
    stuck.stream.set_nonblocking(true).unwrap();
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "schema" }).to_string();
    while (&stuck.stream).write(request.as_bytes()).is_ok() {}
    served.control = None;
    assert_eq!(rest(&mut half.stream), "");
    assert!(!served.path.exists());
}
