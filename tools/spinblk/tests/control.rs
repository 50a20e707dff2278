//! The control socket's protocol, word for word, and what every method says of disks whose boards the test wrote.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

mod control_rig;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use control_rig::{fill, record, serve, state};
use serde_json::{Value, json};
use spinblk_cli::Error;
use spinblk_cli::api::{self, fetch_histograms};
use spinblk_cli::control::{Endpoints, Limits, answer};
use spinblk_perf::OpKind;

/// What the daemon says to `request`, to the byte; empty where it says nothing.
fn say(request: &str) -> String {
    let (mut state, _) = state();
    let answer = answer(request.as_bytes(), &mut state, 1 << 20);
    assert_eq!(answer.last, answer.bytes.starts_with(br#"{"error":{"code":-32700"#), "{request}");
    String::from_utf8(answer.bytes).unwrap()
}

fn error(code: i32, message: &str, id: &str) -> String {
    format!("{{\"error\":{{\"code\":{code},\"message\":\"{message}\"}},\"id\":{id},\"jsonrpc\":\"2.0\"}}\n")
}

#[test]
fn requests_and_their_answers_to_the_byte() {
    let methods = "version, schema, disks, bdevs, reactors, stats, histograms, slow, reset, set_threshold, log_level, \
                   bdev_add, bdev_remove, disk_add, disk_remove, resize, save_config";
    let unknown = |name: &str| error(-32601, &format!("method not found: {name}; there are: {methods}"), "1");
    let members = "no such member; there are: jsonrpc, id, method, params";
    let cases = [
        (r#"{"jsonrpc":"2.0","id":1,"method":"quit"}"#, unknown("quit")),
        (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, unknown("\\\"\\\"")),
        (r#"{"jsonrpc":"2.0","method":"quit"}"#, String::new()),
        (r#"{"jsonrpc":"2.0","method":"disks"}"#, String::new()),
        ("{}", error(-32600, "invalid request: jsonrpc: wanted: \\\"2.0\\\"", "null")),
        (
            r#"{"jsonrpc":"1.0","id":"a","method":"disks"}"#,
            error(-32600, "invalid request: jsonrpc: wanted: \\\"2.0\\\"", "\"a\""),
        ),
        (
            r#"{"jsonrpc":"2.0","id":[],"method":"disks"}"#,
            error(-32600, "invalid request: id: wanted: a string, a number or null", "[]"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":2,"method":5}"#,
            error(-32600, "invalid request: method: wanted: the name of a method", "2"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":2,"method":"disks","param":{}}"#,
            error(-32600, &format!("invalid request: param: {members}"), "2"),
        ),
        ("[]", error(-32600, "invalid request: the batch is empty", "null")),
        ("[1]", format!("[{}]\n", error(-32600, "invalid request: it is no object", "null").trim_end())),
        (r#"[{"jsonrpc":"2.0","method":"disks"}]"#, String::new()),
        ("{]", error(-32700, "parse error: key must be a string at line 1 column 2", "null")),
        ("{\"a\":\u{1}}", error(-32700, "parse error: expected value at line 1 column 6", "null")),
    ];
    for (request, want) in cases {
        // An id that cannot be one is not given back.
        assert_eq!(say(request), want.replace("\"id\":[]", "\"id\":null"), "{request}");
    }
}

#[test]
fn params_that_will_not_do_are_named() {
    let served = serve(Limits::default());
    let mut client = served.client();
    let cases = [
        ("stats", json!([]), "params", "wanted: an object"),
        ("stats", json!({ "disk": 5 }), "disk", "invalid type: integer `5`, expected a string"),
        ("stats", json!({ "disk": "d9" }), "disk", "there is no such disk; there are: d0, d1"),
        ("stats", json!({ "disk": "d1", "queue": 1 }), "queue", "there is no queue 1"),
        ("stats", json!({ "queue": -1 }), "queue", "expected u16"),
        ("stats", json!({ "queue": 65_536 }), "queue", "expected u16"),
        ("stats", json!({ "dsk": "d0" }), "dsk", "unknown field `dsk`, expected `disk` or `queue`"),
        ("disks", json!({ "disk": "d0" }), "disk", "unknown field"),
        ("histograms", json!({ "op": "reads" }), "op", "unknown variant `reads`"),
        ("histograms", json!({ "class": "4k" }), "class", "unknown variant `4k`"),
        ("histograms", json!({ "stage": "all" }), "stage", "unknown variant `all`"),
        ("histograms", json!({ "raw": 1 }), "raw", "expected a boolean"),
        ("slow", json!({ "since": 1 }), "since", "give `disk` and `queue`"),
        ("set_threshold", json!({}), "disk", "missing field `disk`"),
        ("set_threshold", json!({ "disk": "d0" }), "threshold", "missing field"),
        ("set_threshold", json!({ "disk": "d0", "threshold": -5 }), "threshold", "a number of nanoseconds"),
        ("set_threshold", json!({ "disk": "d0", "threshold": "2ms" }), "threshold", "\"auto\""),
        ("log_level", json!({ "filter": null }), "filter", "expected a string"),
        ("disk_add", json!({}), "params", "expected"),
        ("disk_add", json!({ "name": "d2" }), "name", "expected one of `keys`, `toml`, `flags`"),
        ("disk_remove", json!({ "name": "d0" }), "name", "expected `disk`"),
        ("resize", json!({}), "disk", "give a disk or a bdev"),
        ("resize", json!({ "disk": "d0", "bdev": "d0" }), "bdev", "not both"),
        ("resize", json!({ "disk": "d0", "size_bytes": -1 }), "size_bytes", "expected u64"),
        ("save_config", json!({ "path": "s.toml" }), "path", "an absolute path is wanted"),
    ];
    for (method, params, field, reason) in cases {
        let error = client.call(method, params.clone()).unwrap_err();
        assert_eq!((&error["code"], &error["data"]["field"]), (&json!(-32602), &json!(field)), "{params}");
        let said = error["data"]["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{method} {params}: {said}");
    }
    let error = client.call("log_level", json!({ "filter": "debug" })).unwrap_err();
    assert_eq!(error["code"], -32002, "these disks' log is not ours");
    let error = client.call("save_config", json!({})).unwrap_err();
    assert_eq!(error["code"], -32002, "nobody makes changes here");
    let one = json!({ "jsonrpc": "2.0", "id": 1, "method": "save_config" });
    let batch = client.exchange(&json!([one]).to_string());
    assert_eq!(batch[0]["error"]["message"], "invalid request: a change is sent by itself, not in a batch");
}

#[test]
fn requests_may_be_cut_and_joined_anywhere() {
    let served = serve(Limits::default());
    let text = r#" {"jsonrpc":"2.0","id":"}{\"","method":"disks"}{"jsonrpc":"2.0","id":2,"method":"x"}
        [{"jsonrpc":"2.0","id":3,"method":"bdevs"},{"jsonrpc":"2.0","method":"bdevs"}]"#;
    let read = |client: &mut control_rig::Client| {
        let [a, b, c] = [(); 3].map(|()| client.answer().unwrap());
        assert_eq!((&a["id"], &a["result"]["disks"][1]["name"]), (&json!("}{\""), &json!("d1")));
        assert_eq!((&b["id"], &b["error"]["code"]), (&json!(2), &json!(-32601)));
        assert_eq!((c.as_array().unwrap().len(), &c[0]["id"]), (1, &json!(3)));
    };
    let mut client = served.client();
    for cut in 0..text.len() {
        client.send(&text.as_bytes()[..cut]);
        client.send(&text.as_bytes()[cut..]);
        read(&mut client);
    }
    text.bytes().for_each(|byte| client.send(&[byte]));
    read(&mut client);
    // All at once, and the end of the stream right behind it.
    client.send(text.repeat(50).as_bytes());
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    (0..50).for_each(|_| read(&mut client));
    assert_eq!(client.answer(), None);
}

#[test]
fn a_batch_is_bounded() {
    let served = serve(Limits::default());
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "version" });
    let batch = |len| Value::Array(vec![request.clone(); len]).to_string();
    let mut client = served.client();
    assert_eq!(client.exchange(&batch(64)).as_array().unwrap().len(), 64);
    let refused = client.exchange(&batch(65));
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32600)));
}

#[test]
fn an_answer_is_bounded() {
    let (mut state, _) = state();
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"schema"},{"jsonrpc":"2.0","id":2,"method":"reset"}]"#;
    let answer = answer(batch.as_bytes(), &mut state, 1000);
    let answer: Value = serde_json::from_slice(&answer.bytes).unwrap();
    assert_eq!((&answer[0]["id"], &answer[0]["error"]["code"]), (&json!(1), &json!(-32001)));
    assert!(answer[1]["result"]["since_ms"].is_u64(), "{answer}");
}

#[test]
fn disks_bdevs_and_reactors() {
    let served = serve(Limits::default());
    let mut client = served.client();
    let disks = client.call("disks", json!({})).unwrap();
    let d0 = json!({
        "name": "d0", "type": "malloc", "path": "/dev/vda", "transport": "virtio-vdpa", "size_bytes": 1 << 20,
        "block_size": 512, "read_only": false, "attached": true, "queue_size": 256,
        "queues": [{ "index": 0, "core": 1 }, { "index": 1, "core": 2 }]
    });
    assert_eq!((&disks["disks"][0], disks["disks"].as_array().unwrap().len()), (&d0, 2));
    let d1 = &disks["disks"][1];
    assert_eq!((&d1["path"], &d1["attached"], &d1["read_only"]), (&Value::Null, &json!(false), &json!(true)));
    let bdevs = client.call("bdevs", json!({})).unwrap();
    let d1 = json!({
        "name": "d1", "type": "null", "size_bytes": 1 << 30, "block_size": 4096, "physical_block_size": 4096,
        "read_only": true, "caps": { "flush": true, "discard": false, "write_zeroes": false }, "children": []
    });
    assert_eq!(bdevs["bdevs"][1], d1);
    let reactors = client.call("reactors", json!({})).unwrap();
    let second = json!({
        "core": 2, "busy_ns": 1_500_000_000, "idle_ns": 500_000_000, "iterations": 7,
        "longest_iteration_ns": 9000, "enters": 3
    });
    assert_eq!(reactors["reactors"][1], second);
    let version = client.call("version", json!({})).unwrap();
    assert_eq!((&version["program"], &version["api_version"]), (&json!("spinblk"), &json!(1)));
    assert_eq!(version["pid"], std::process::id());
}

#[test]
fn stats_count_since_the_last_reset() {
    let served = serve(Limits::default());
    let mut client = served.client();
    fill(&served.boards);
    let stats = client.call("stats", json!({ "disk": "d0" })).unwrap();
    let [q0, q1] = [&stats["disks"][0]["queues"][0], &stats["disks"][0]["queues"][1]];
    assert_eq!(stats["disks"].as_array().unwrap().len(), 1);
    let ops = json!([
        { "op": "read", "ios": 4, "bytes": 3 * 4096 + 65_536, "errors": 0 },
        { "op": "flush", "ios": 1, "bytes": 0, "errors": 0 }
    ]);
    assert_eq!(
        (&q0["ops"], &q0["requests"], &q0["batches"], &q0["slow"]),
        (&ops, &json!(5), &json!(1), &json!(1))
    );
    assert_eq!((&q0["batch_sizes"], &q0["interrupts_sent"]), (&json!([0, 0, 1, 0, 0, 0, 0]), &json!(1)));
    assert_eq!((&q1["ring_full"], &q1["mapping_faults"]), (&json!(1), &json!(1)));
    let backend = json!({
        "fixed_buffer_ios": 60, "bounced_ios": 4, "polled_ios": 0, "retries": 0, "no_space": 0, "target_failures": 0
    });
    assert_eq!((&q1["backend"], &q1["interrupts_suppressed"]), (&backend, &json!(1)));

    client.call("reset", json!({})).unwrap();
    let after = client.call("stats", json!({})).unwrap();
    for queue in after["disks"].as_array().unwrap().iter().flat_map(|disk| disk["queues"].as_array().unwrap())
    {
        assert_eq!((&queue["ops"], &queue["requests"], &queue["slow"]), (&json!([]), &json!(0), &json!(0)));
    }
    assert_eq!(client.call("histograms", json!({})).unwrap()["entries"], json!([]));
    record(&served.boards[1], OpKind::Write, 512, 1000, 2);
    let after = client.call("stats", json!({ "queue": 1 })).unwrap();
    assert_eq!(after["disks"][0]["queues"][0]["ops"][0]["ios"], 2);
    assert_eq!(served.boards[1].snapshot().of_kind(OpKind::Write).ios, 66, "boards are never cleared");
}

#[test]
fn histograms_are_told_by_stage_and_size() {
    let served = serve(Limits::default());
    let mut client = served.client();
    fill(&served.boards);
    let mut all = |params| client.call("histograms", params).unwrap()["entries"].as_array().unwrap().clone();
    let reads = all(json!({ "disk": "d0", "op": "read", "stage": "total" }));
    let classes: Vec<_> = reads.iter().map(|e| (e["class"].as_str().unwrap(), &e["count"])).collect();
    assert_eq!(classes, [("to_4k", &json!(3)), ("to_64k", &json!(1))]);
    let p50 = reads[0]["p50_ns"].as_u64().unwrap();
    assert!(p50.abs_diff(100_000) < 1000 && reads[0].get("histogram").is_none(), "{}", reads[0]);
    assert_eq!(reads[0]["sum_ns"].as_u64().unwrap() / 3_000, 100);
    assert_eq!(all(json!({ "queue": 1, "stage": "bdev" })).len(), 1);
    assert_eq!(
        all(json!({ "class": "to_512" })).len(),
        5,
        "the total and four stages; no interrupt was sent"
    );
    assert_eq!(all(json!({ "op": "flush", "class": "to_512" })).len(), 0, "flushes have no size");
    assert_eq!(all(json!({ "op": "flush", "stage": "total" }))[0]["class"], Value::Null);
}

#[test]
fn fetched_histograms_are_the_boards() {
    let served = serve(Limits::default());
    fill(&served.boards);
    let fetched = fetch_histograms(&served.path).unwrap();
    // Reads of two sizes, flushes, writes: the total and four stages each.
    assert_eq!(fetched.len(), 4 * 5);
    let total = |op| {
        move |one: &&api::FetchedHistogram| (one.entry.op, one.entry.stage) == (op, api::StageName::Total)
    };
    let write = fetched.iter().find(total(api::Op::Write)).unwrap();
    assert_eq!((write.entry.disk.as_str(), write.entry.queue, write.entry.count), ("d0", 1, 64));
    let board = served.boards[1].snapshot().of_kind(OpKind::Write);
    assert_eq!(Some(&write.histogram), board.total.histogram());
    assert_eq!(write.entry.sum_ns, board.total.sum_ns);
}

#[test]
fn slow_requests_are_told_with_all_that_explains_them() {
    let served = serve(Limits::default());
    let mut client = served.client();
    fill(&served.boards);
    let slow = client.call("slow", json!({})).unwrap();
    assert_eq!(
        (slow["thresholds"].as_array().unwrap().len(), slow["records"].as_array().unwrap().len()),
        (3, 1)
    );
    let one = &slow["records"][0];
    let [place, blocks] = [&one["offset_bytes"], &one["lba"]];
    assert_eq!(
        (&one["op"], &one["bytes"], place, blocks),
        (&json!("read"), &json!(65_536), &json!(8192), &json!(16))
    );
    assert_eq!((&one["core"], &one["batch_position"], &one["number"]), (&json!(1), &json!(3), &json!(1)));
    assert_eq!((&one["worst_stage"], &one["stages_ns"]["bdev"]), (&json!("bdev"), &one["total_ns"]));
    assert!(one["age_ns"].as_u64().unwrap() >= 3_000_000, "{one}");

    let set = client.call("set_threshold", json!({ "disk": "d0", "threshold": 30_000 })).unwrap();
    assert_eq!(set, json!({ "disk": "d0", "threshold": 30_000, "queues": 2 }));
    (1..=3).for_each(|n| record(&served.boards[0], OpKind::Write, 512, 40_000, n));
    let mut since = |since| {
        let slow = client.call("slow", json!({ "disk": "d0", "queue": 0, "since": since })).unwrap();
        assert_eq!(
            slow["thresholds"][0],
            json!({ "disk": "d0", "queue": 0, "threshold_ns": 30_000, "fixed": true })
        );
        slow["records"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["number"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!((since(0), since(2), since(4)), (vec![4, 3, 2, 1], vec![4, 3], vec![]));
    let only = client.call("slow", json!({ "op": "flush" })).unwrap();
    assert_eq!(only["records"], json!([]));
    client.call("set_threshold", json!({ "disk": "d0", "threshold": "auto" })).unwrap();
    assert!(!served.boards[1].slow.threshold().1);
}

#[test]
fn the_socket_is_private_and_goes_away() {
    let mut served = serve(Limits::default());
    assert_eq!(std::fs::metadata(&served.path).unwrap().permissions().mode() & 0o777, 0o600);
    let endpoints = Endpoints { socket: Some(served.path.clone()), metrics: None };
    assert!(matches!(endpoints.bind(), Err(Error::SocketBusy { .. })));
    assert!(served.client().call("version", json!({})).is_ok(), "who knocked did no harm");
    served.control = None;
    assert!(!served.path.exists());
    let error = api::Client::connect(Path::new(&served.path)).unwrap_err().to_string();
    assert!(error.contains("is `spinblk serve --control"), "{error}");
}
