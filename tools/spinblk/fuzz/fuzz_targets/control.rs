//! A hostile client of the control socket: any bytes, in any pieces, framed, parsed and run on disks that nobody serves.
//! Every answer must be JSON, nothing may panic, and how the bytes are cut must not matter.
#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use spinblk_bdev::{Null, NullReads};
use spinblk_cli::control::{Disk, FrameError, Framer, LogFilter, Queue, State, answer};
use spinblk_cli::metrics::Scrape;
use spinblk_perf::{Clock, Group, OpKind, QueueBoard, Stamps};

const MAX_REQUEST_BYTES: usize = 4096;
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Nobody makes changes here: they are read, checked as far as the control thread does, and refused.
fn state() -> State {
    let (board, clock) = (QueueBoard::new(), Clock::get());
    let stamps = Stamps { returned: 1 << 30, ..Stamps::default() };
    let group = Group { kind: OpKind::Read, ok: true, requests: 2, bytes: 4096, stamps, ..Group::default() };
    board.record(&group, &clock);
    let bdev = Null::new("d0", 1 << 20, 512, NullReads::Untouched).expect("a small disk");
    let disk = Disk {
        name: "d0".into(),
        path: None,
        transport: "vhost-user".into(),
        queue_size: 64,
        bdev: Arc::new(bdev),
        attached: Arc::default(),
        queues: vec![Queue::new(0, 1, Arc::new(board))],
    };
    State::new(vec![disk], Vec::new(), LogFilter::default())
}

/// The values in `bytes`, given in pieces of `step`.
fn frames(bytes: &[u8], step: usize) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let (mut framer, mut found) = (Framer::new(MAX_REQUEST_BYTES), Vec::new());
    for piece in bytes.chunks(step) {
        framer.push(piece);
        while let Some(next) = framer.next() {
            match next {
                Ok(frame) => found.push(frame),
                Err(e) => return (found, Some(e)),
            }
        }
    }
    (found, None)
}

fn check_one(answer: &Value) {
    assert_eq!(answer["jsonrpc"], "2.0");
    assert!(answer["result"].is_null() != answer["error"].is_null(), "{answer}");
    assert!(matches!(answer["id"], Value::Null | Value::String(_) | Value::Number(_)), "{answer}");
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(state());
}

fuzz_target!(|input: &[u8]| {
    let Some((&step, bytes)) = input.split_first() else { return };
    let whole = frames(bytes, bytes.len().max(1));
    assert_eq!(frames(bytes, usize::from(step) + 1), whole);
    STATE.with_borrow_mut(|state| {
        for frame in whole.0 {
            let answer = answer(&frame, state, MAX_ANSWER_BYTES);
            if answer.bytes.is_empty() {
                assert!(!answer.last);
                continue;
            }
            match serde_json::from_slice::<Value>(&answer.bytes).expect("an answer is JSON") {
                Value::Array(answers) => answers.iter().for_each(check_one),
                one => check_one(&one),
            }
        }
        let mut scrape = Scrape::default();
        scrape.push(bytes);
        if let Some(answer) = scrape.next(state) {
            assert!(answer.last && answer.bytes.starts_with(b"HTTP/1.1 "));
        }
    });
});
