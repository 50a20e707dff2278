//! What happens to a disk when its file or device changes: grows, vanishes, fills up, may not grow, or fails.
//! (That it shrinks is in `aio.rs`, and that a disk grows with it in `resize.rs`.)
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use common::{Bench, Loop, Request, disk_dir, file_in, pattern};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use spinblk_bdev::{Aio, AioOptions, Bdev, Direct, IoError, Op};

const MIB: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;
/// Set in the process that a test starts for itself.
const CHILD: &str = "SPINBLK_TEST_CHILD";

fn direct(direct: Direct) -> AioOptions {
    AioOptions { direct, ..AioOptions::default() }
}

#[test]
fn a_file_that_grew_is_seen_when_it_is_opened_again() {
    let file = file_in(&disk_dir(), MIB);
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    let mut bench = Bench::new(&bdev, 1);
    file.as_file().set_len(2 * MIB).unwrap();
    assert_eq!(bdev.info().size_bytes(), MIB);
    assert_eq!(bench.write(MIB - 4096, &pattern(1, 4096)), Ok(()));
    assert_eq!(bench.write(MIB, &[1; 4096]), Err(IoError::OutOfRange));
    drop(bench);
    drop(bdev);
    let bdev = Aio::open("d0", file.path(), AioOptions::default()).unwrap();
    assert_eq!(bdev.info().size_bytes(), 2 * MIB);
    assert_eq!(Bench::new(&bdev, 1).read(MIB - 4096, 4096).unwrap(), pattern(1, 4096));
}

#[test]
fn an_unlinked_file_goes_on() {
    for mode in [Direct::On, Direct::Off] {
        let file = file_in(&disk_dir(), MIB);
        let path = file.path().to_owned();
        let bdev = Aio::open("d0", &path, direct(mode)).unwrap();
        let mut bench = Bench::new(&bdev, 1);
        bench.write(0, &pattern(1, 8192)).unwrap();
        drop(file);
        assert!(!path.exists());
        bench.write(8192, &pattern(2, 8192)).unwrap();
        assert_eq!(bench.run(&Request::new(Op::Flush, 0, 0)), Ok(()));
        let both = [pattern(1, 8192), pattern(2, 8192)].concat();
        assert_eq!(bench.read(0, 16384).unwrap(), both, "{mode:?}");
        // A channel opened later finds it too: it is the open file that is served, not its name.
        assert_eq!(Bench::new(&bdev, 1).read(0, 16384).unwrap(), both, "{mode:?}");
    }
}

/// A tmpfs of that size which only this thread sees; it goes with the thread.
fn private_tmpfs(dir: &Path, size_bytes: u64) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let dir = CString::new(dir.as_os_str().as_bytes()).unwrap();
    let options = CString::new(format!("size={size_bytes}")).unwrap();
    let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: all pointers are null or C strings that outlive the calls.
    let results = unsafe {
        [
            libc::mount(none, c"/".as_ptr(), none, private, none.cast()),
            libc::mount(c"none".as_ptr(), dir.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast()),
        ]
    };
    results.into_iter().try_for_each(|result| nix::errno::Errno::result(result).map(drop))
}

/// Writes chunks from the start of a full file system's file until one fails.
fn fill_up(bench: &mut Bench) -> (usize, IoError) {
    for chunk in 0.. {
        if let Err(error) = bench.write((chunk * CHUNK) as u64, &pattern(chunk as u64, CHUNK)) {
            return (chunk, error);
        }
    }
    unreachable!("the disk is larger than the file system")
}

#[test]
fn a_full_file_system_fails_what_needs_room_and_nothing_else() {
    // In a thread of its own, whose file systems nobody else sees.
    let test = || {
        let dir = tempfile::tempdir().unwrap();
        // Not a whole number of chunks, so that the last write is cut short before it fails.
        if let Err(e) = private_tmpfs(dir.path(), MIB + 20480) {
            eprintln!("skipped: no file system of its own to fill up ({e})");
            return;
        }
        for mode in [Direct::Auto, Direct::Off] {
            let file = file_in(dir.path(), 8 * MIB);
            let bdev = Aio::open("d0", file.path(), direct(mode)).unwrap();
            let mut bench = Bench::new(&bdev, 1);
            let (chunks, error) = fill_up(&mut bench);
            assert_eq!(error, IoError::NoSpace, "{mode:?}");
            assert!((8..=16).contains(&chunks), "{mode:?}: {chunks} chunks");
            for chunk in 0..chunks {
                let read = bench.read((chunk * CHUNK) as u64, CHUNK).unwrap();
                assert!(read == pattern(chunk as u64, CHUNK), "{mode:?}: chunk {chunk}");
            }
            // What is there already may be written again.
            assert_eq!(bench.write(0, &pattern(99, CHUNK)), Ok(()));
            assert_eq!(bench.run(&Request::new(Op::Flush, 0, 0)), Ok(()));
            assert_eq!(bench.read(8 * MIB - 4096, 4096).unwrap(), [0; 4096]);
            // Blocks given back make room.
            assert!(bdev.info().caps.discard);
            bench.run(&Request::new(Op::Discard, CHUNK as u64, 2 * CHUNK)).unwrap();
            assert_eq!(bench.write(8 * MIB - CHUNK as u64, &pattern(98, CHUNK)), Ok(()), "{mode:?}");
            assert_eq!(bench.read(8 * MIB - CHUNK as u64, CHUNK).unwrap(), pattern(98, CHUNK));
        }
    };
    std::thread::spawn(test).join().unwrap();
}

/// The limit counts for a whole process, so the test starts one.
#[test]
fn beyond_the_largest_file_size_writes_fail() {
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "beyond_the_largest_file_size_writes_fail", "--nocapture"]).env(CHILD, "1");
        let output = child.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let file = file_in(&disk_dir(), MIB);
    let (on, off) = (direct(Direct::On), direct(Direct::Off));
    // SAFETY: to ignore a signal runs no handler.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, MIB / 2, MIB / 2).unwrap();
    for options in [on, off] {
        let bdev = Aio::open("d0", file.path(), options).unwrap();
        let mut bench = Bench::new(&bdev, 1);
        bench.write(MIB / 2 - 8192, &pattern(1, 8192)).unwrap();
        let too_large = Err(IoError::Errno(libc::EFBIG));
        assert_eq!(bench.write(MIB / 2, &pattern(2, 4096)), too_large, "{options:?}");
        // The first half of it is written, and then it fails.
        assert_eq!(bench.write(MIB / 2 - 4096, &pattern(3, 8192)), too_large, "{options:?}");
        assert_eq!(bench.read(MIB / 2 - 8192, 4096).unwrap(), pattern(1, 8192)[..4096]);
        assert_eq!(bench.read(MIB / 2, 4096).unwrap(), [0; 4096]);
    }
}

#[test]
fn a_device_that_fails_fails_those_that_touch_the_spot() {
    let file = file_in(&disk_dir(), MIB);
    let Some(device) = Loop::attach(file.path()) else { return };
    let sized = AioOptions { create_bytes: Some(MIB), ..AioOptions::default() };
    let text = Aio::open("d0", device.path(), sized).unwrap_err().to_string();
    assert!(text.contains("it is a block device; leave create_size out"), "{text}");

    let bdev = Aio::open("d0", device.path(), AioOptions::default()).unwrap();
    let mut bench = Bench::new(&bdev, 1);
    bench.write(0, &pattern(1, CHUNK)).unwrap();
    bench.write(MIB / 2, &pattern(2, CHUNK)).unwrap();
    assert_eq!(bench.run(&Request::new(Op::Flush, 0, 0)), Ok(()));
    // The second half of the medium is gone: the device cannot read it.
    file.as_file().set_len(MIB / 2).unwrap();
    assert_eq!(bench.read(MIB / 2, CHUNK), Err(IoError::Errno(libc::EIO)));
    assert_eq!(bench.read(0, CHUNK).unwrap(), pattern(1, CHUNK));
    assert_eq!(bench.run(&Request::new(Op::Flush, 0, 0)), Ok(()));
    file.as_file().set_len(MIB).unwrap();
    assert_eq!(bench.read(MIB / 2, CHUNK).unwrap(), vec![0; CHUNK]);
}
