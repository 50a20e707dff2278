//! The generator against a vhost-user server that others wrote (qemu-storage-daemon, where it is installed), and
//! against servers that are not there or go away.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{job, run_whole};
use spinblk_load::{Completions, Job, RingFormat, RingOptions, VhostUser};
use tempfile::TempDir;

/// A running qemu-storage-daemon; ended on drop.
struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    /// Starts one over `blockdev`; `None` where it is not installed.
    fn start(blockdev: &str, queues: u16) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let blockdev = blockdev.replace("IMAGE", &image.display().to_string());
        let socket = dir.path().join("q.sock");
        let export = format!(
            "vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path={},writable=on,num-queues={queues}",
            socket.display()
        );
        let mut command = Command::new("qemu-storage-daemon");
        command
            .args(["--blockdev", &blockdev, "--export", &export])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            eprintln!("skipped: qemu-storage-daemon is not installed");
            return None;
        };
        let daemon = Self { child, dir };
        let began = Instant::now();
        while !socket.exists() {
            assert!(began.elapsed() < Duration::from_secs(20), "qemu-storage-daemon does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("q.sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FILE: &str = "driver=file,node-name=d0,filename=IMAGE";
const NULL: &str = "driver=null-co,node-name=d0,size=1073741824,read-zeroes=off";

fn options(job: &Job) -> RingOptions {
    RingOptions {
        queues: job.queues,
        depth: job.depth,
        block_bytes: job.block_bytes,
        format: RingFormat::Split,
        indirect: false,
        event_idx: true,
    }
}

fn connect(socket: &Path, job: &Job, event_idx: bool) -> Result<VhostUser, spinblk_load::Error> {
    VhostUser::connect(socket, RingOptions { event_idx, ..options(job) })
}

#[test]
fn contents_are_right_with_event_idx_and_without() {
    for event_idx in [true, false] {
        for read_percent in [0, 50, 100] {
            let Some(daemon) = Daemon::start(FILE, 2) else { return };
            let job =
                Job { queues: 2, read_percent, verify: true, time: Duration::from_millis(400), ..job() };
            let target = connect(&daemon.socket(), &job, event_idx).unwrap();
            let outcome = run_whole(&job, &target).unwrap();
            assert!(outcome.is_clean(), "event_idx {event_idx} {:?}", outcome.lanes[0].verify);
            for lane in &outcome.lanes {
                let counts = lane.verify.as_ref().unwrap();
                assert!(counts.checked > 0 && lane.all().ios > 0 && lane.kicks > 0, "{counts:?}");
            }
        }
    }
}

#[test]
fn indices_wrap_around_many_times() {
    let Some(daemon) = Daemon::start(NULL, 1) else { return };
    // 16-bit indices wrap after 65,536 requests.
    let job = Job { depth: 64, time: Duration::from_secs(2), ..job() };
    for event_idx in [true, false] {
        let target = connect(&daemon.socket(), &job, event_idx).unwrap();
        let outcome = run_whole(&job, &target).unwrap();
        assert!(outcome.is_clean() && outcome.lanes[0].all().ios > 70_000, "{}", outcome.lanes[0].all().ios);
    }
}

#[test]
fn a_server_that_dies_under_load_ends_the_run() {
    let Some(mut daemon) = Daemon::start(NULL, 1) else { return };
    let job = Job { time: Duration::from_secs(60), ..job() };
    let target = connect(&daemon.socket(), &job, true).unwrap();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        daemon.child.kill().unwrap();
        daemon
    });
    let began = Instant::now();
    let error = run_whole(&job, &target).unwrap_err();
    assert!(error.to_string().contains("the server has closed the connection"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(killer.join().unwrap());
}

#[test]
fn what_the_server_does_not_offer_is_told() {
    let Some(daemon) = Daemon::start(NULL, 1) else { return };
    let error = connect(&daemon.socket(), &Job { queues: 2, ..job() }, true).err().unwrap();
    assert!(error.to_string().contains("--queues 2: the server offers 1 queue(s)"), "{error}");
    let error = connect(&daemon.socket(), &Job { depth: 4097, ..job() }, true).err().unwrap();
    assert!(error.to_string().contains("--qd 4097: allowed: 1 to 4096"), "{error}");
    let packed = RingOptions { format: RingFormat::Packed, ..options(&job()) };
    let error = VhostUser::connect(&daemon.socket(), packed).err().unwrap();
    assert!(error.to_string().contains("--ring packed: it does not offer VIRTIO_F_RING_PACKED"), "{error}");
}

#[test]
fn interrupts_wake_a_sleeping_client_every_time() {
    for event_idx in [true, false] {
        for depth in [1, 8] {
            let Some(daemon) = Daemon::start(FILE, 3) else { return };
            let completions = Completions::Interrupt;
            let job = Job { queues: 3, depth, completions, read_percent: 50, verify: true, ..job() };
            let target = connect(&daemon.socket(), &job, event_idx).unwrap();
            let outcome = run_whole(&job, &target).unwrap();
            assert!(outcome.is_clean(), "event_idx {event_idx} {:?}", outcome.lanes[0].verify);
            for lane in &outcome.lanes {
                // A lost wake-up costs 50 ms, a third of the time that is measured; so does a busy machine, but rarely.
                let (ios, long_ns) = (lane.all().ios, lane.all().percentiles().p90_ns);
                assert!(lane.interrupts > 0 && ios > 0, "{} interrupts, {ios} I/Os", lane.interrupts);
                assert!(long_ns < 50_000_000, "event_idx {event_idx} depth {depth}: {long_ns} ns");
            }
        }
    }
}

#[test]
fn indirect_descriptors_make_room_for_more() {
    let Some(daemon) = Daemon::start(FILE, 1) else { return };
    // As many as the server's longest ring has entries.
    let job = Job { depth: 256, read_percent: 50, verify: true, time: Duration::from_millis(400), ..job() };
    let indirect = RingOptions { indirect: true, ..options(&job) };
    let target = VhostUser::connect(&daemon.socket(), indirect).unwrap();
    let outcome = run_whole(&job, &target).unwrap();
    assert!(outcome.is_clean() && outcome.lanes[0].all().ios > 0, "{:?}", outcome.lanes[0].verify);
}

#[test]
fn servers_that_are_not_there_are_told_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let error = connect(&socket, &job(), true).err().unwrap().to_string();
    assert!(error.contains("none.sock") && error.contains("start the server first"), "{error}");
    drop(UnixListener::bind(&socket).unwrap());
    let error = connect(&socket, &job(), true).err().unwrap().to_string();
    assert!(error.contains("no server listens on it"), "{error}");
}

#[test]
fn a_server_that_hangs_up_or_talks_nonsense_is_told() {
    for answer in [&b""[..], &[0xFF; 64]] {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bad.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The other side may be gone already.
            let _ = std::io::Write::write_all(&mut stream, answer);
        });
        let error = connect(&socket, &job(), true).err().unwrap().to_string();
        assert!(error.contains("bad.sock") && error.contains("server's own messages"), "{error}");
        server.join().unwrap();
    }
}
