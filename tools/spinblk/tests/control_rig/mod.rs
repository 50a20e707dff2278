//! Disks that nobody serves, with boards that the tests write, behind a control socket that is real.

// Each test file uses a part of it.
#![allow(dead_code, clippy::needless_pass_by_value, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};
use spinblk_bdev::{Bdev, BrokenChannel, Channel, Error, Info};
use spinblk_cli::api::ReactorInfo;
use spinblk_cli::control::{Control, Disk, Endpoints, Limits, LogFilter, Queue, State};
use spinblk_perf::{BackendCounters, Clock, Group, OpKind, QueueBoard, Stamps};
use spinblk_reactor::Ring;

/// Clock ticks of so many nanoseconds.
pub fn ticks(ns: u64) -> u64 {
    (ns << 20) / Clock::get().to_ns(1 << 20)
}

pub fn record(board: &QueueBoard, kind: OpKind, bytes: u64, total_ns: u64, count: u32) {
    let looked = Clock::get().now().saturating_sub(ticks(total_ns));
    // All of it with the block device.
    let end = looked + ticks(total_ns) + 1;
    let stamps =
        Stamps { looked, seen: looked, submitted: looked, completed: end, returned: end, interrupted: None };
    let group =
        Group { kind, ok: true, requests: count, bytes, offset_bytes: 8192, batch_position: 3, stamps };
    board.record(&group, &Clock::get());
}

/// A block device that is only looked at.
struct Shown {
    info: Info,
    kind: &'static str,
}

impl Bdev for Shown {
    fn info(&self) -> &Info {
        &self.info
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn open(&self, _: &mut Ring, _: usize) -> Result<Box<dyn Channel>, Error> {
        Ok(Box::new(BrokenChannel))
    }
}

/// `d0` with two queues on cores 1 and 2, which has a driver, and `d1`, which is read-only.
pub fn state() -> (State, Vec<Arc<QueueBoard>>) {
    let boards: Vec<_> = (0..3).map(|_| Arc::new(QueueBoard::new())).collect();
    let queue = |index, core, board: usize| Queue::new(index, core, Arc::clone(&boards[board]));
    let d0 = Disk {
        name: "d0".into(),
        path: Some("/dev/vda".into()),
        transport: "virtio-vdpa".into(),
        queue_size: 256,
        bdev: Arc::new(Shown { info: Info::new("d0", 1 << 20, 512).unwrap(), kind: "malloc" }),
        attached: Arc::new(AtomicBool::new(true)),
        queues: vec![queue(0, 1, 0), queue(1, 2, 1)],
    };
    let mut info = Info::new("d1", 1 << 30, 4096).unwrap();
    info.read_only = true;
    info.caps.flush = true;
    let d1 = Disk {
        name: "d1".into(),
        path: None,
        transport: "vhost-user".into(),
        queue_size: 64,
        bdev: Arc::new(Shown { info, kind: "null" }),
        attached: Arc::default(),
        queues: vec![queue(0, 2, 2)],
    };
    let reactor = |core| {
        let info = ReactorInfo {
            core,
            busy_ns: 1_500_000_000,
            idle_ns: 500_000_000,
            iterations: 7,
            longest_iteration_ns: 9000,
            enters: 3,
        };
        Box::new(move || info) as Box<dyn Fn() -> ReactorInfo + Send>
    };
    (State::new(vec![d0, d1], vec![reactor(1), reactor(2)], LogFilter::default()), boards)
}

/// Something of everything: four reads and a flush in queue 0 of `d0`, writes in queue 1.
pub fn fill(boards: &[Arc<QueueBoard>]) {
    record(&boards[0], OpKind::Read, 4096, 100_000, 3);
    record(&boards[0], OpKind::Read, 65_536, 3_000_000, 1);
    record(&boards[0], OpKind::Flush, 0, 50_000, 1);
    record(&boards[1], OpKind::Write, 512, 20_000, 64);
    boards[0].batch(5, false);
    boards[1].batch(64, true);
    boards[0].interrupt_sent();
    boards[1].interrupt_suppressed();
    boards[1].mapping_fault();
    boards[1].backend(BackendCounters { fixed_buffer_ios: 60, bounced_ios: 4, ..BackendCounters::default() });
}

/// A control socket with the state of [`state`].
pub struct Served {
    pub boards: Vec<Arc<QueueBoard>>,
    pub path: PathBuf,
    pub control: Option<Control>,
    _folder: tempfile::TempDir,
}

pub fn serve(limits: Limits) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let (state, boards) = state();
    let endpoints = Endpoints { socket: Some(path.clone()), metrics: None };
    let control = Control::start(endpoints.bind().unwrap(), state, &[], limits).unwrap();
    Served { boards, path, control, _folder: folder }
}

impl Served {
    pub fn client(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream }
    }
}

/// A client that knows nothing of the types.
pub struct Client {
    pub stream: UnixStream,
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next answer; `None` when the daemon has closed.
    pub fn answer(&mut self) -> Option<Value> {
        let next = serde_json::Deserializer::from_reader(&mut self.stream).into_iter().next();
        next.map(Result::unwrap)
    }

    pub fn exchange(&mut self, request: &str) -> Value {
        self.send(request.as_bytes());
        self.answer().unwrap()
    }

    /// The result of a method, or its error.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let mut answer = self.exchange(&request.to_string());
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)));
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer["result"].take()),
        }
    }
}
