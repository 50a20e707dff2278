//! Tests of the ring, on the kernel.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::opcode;

use super::*;
use crate::on_file;

fn wait(ring: &mut Ring, owner: OwnerId, want: usize) -> Vec<Completion> {
    let mut got = Vec::new();
    for _ in 0..1_000_000 {
        ring.enter().unwrap();
        got.append(ring.inbox(owner).unwrap());
        if got.len() >= want {
            return got;
        }
    }
    panic!("{} of {want} completions after a million iterations", got.len());
}

#[test]
fn completions_reach_their_owners() {
    let mut ring = Ring::new(8).unwrap();
    let a = ring.register_owner(4).unwrap();
    let b = ring.register_owner(4).unwrap();
    for tag in 0..4 {
        // SAFETY: a no-op names no memory.
        unsafe {
            ring.push(a, tag, opcode::Nop::new().build());
            ring.push(b, 100 + tag, opcode::Nop::new().build());
        }
    }
    let mut tags: Vec<u32> = wait(&mut ring, a, 4).iter().map(|c| c.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 1, 2, 3]);
    let mut tags: Vec<u32> = wait(&mut ring, b, 4).iter().map(|c| c.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [100, 101, 102, 103]);
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn more_operations_than_submission_slots_all_complete() {
    let mut ring = Ring::new(4).unwrap();
    let owner = ring.register_owner(64).unwrap();
    for tag in 0..64 {
        // SAFETY: a no-op names no memory.
        unsafe { ring.push(owner, tag, opcode::Nop::new().build()) };
    }
    let mut tags: Vec<u32> = wait(&mut ring, owner, 64).iter().map(|c| c.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..64).collect::<Vec<_>>());
}

#[test]
fn fixed_buffers_and_files_work_and_are_shared() {
    let mut ring = Ring::new(8).unwrap();
    let owner = ring.register_owner(1).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"spinblk!").unwrap();
    let mut memory = vec![0u8; 4096];
    // SAFETY: `memory` outlives the registration.
    let first = unsafe { ring.acquire_buffer(memory.as_mut_ptr(), 4096) }.unwrap();
    // SAFETY: as above.
    let second = unsafe { ring.acquire_buffer(memory.as_mut_ptr(), 4096) }.unwrap();
    assert_eq!(first, second);
    ring.release_buffer(first);
    let file_id = RingFile::Registered(ring.register_file(file.as_raw_fd()).unwrap());
    let entry = on_file!(file_id, |f| opcode::ReadFixed::new(f, memory.as_mut_ptr(), 8, second.0).build());
    // SAFETY: `memory` and the file live past `wait`.
    unsafe { ring.push(owner, 7, entry) };
    assert_eq!(wait(&mut ring, owner, 1), [Completion { tag: 7, result: 8 }]);
    assert_eq!(&memory[..8], b"spinblk!");
    ring.release_buffer(second);
    assert!(ring.buffers.0.iter().all(Option::is_none));
}

/// Counts warnings.
#[derive(Default)]
struct Warnings(std::sync::atomic::AtomicUsize);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn memory_that_the_kernel_refuses_is_said_once_and_done_without() {
    let warnings = Arc::new(Warnings::default());
    let _counted = tracing::subscriber::set_default(Arc::clone(&warnings));
    let mut ring = Ring::new(8).unwrap();
    // Nothing is mapped there, so it cannot be pinned: refused as memory is that RLIMIT_MEMLOCK does not allow.
    let nowhere = std::ptr::without_provenance_mut(0x1000);
    for _ in 0..3 {
        // SAFETY: the range is not mapped, and registering it fails; nothing is ever read or written there.
        assert_eq!(unsafe { ring.acquire_buffer(nowhere, 4096) }, None);
    }
    assert_eq!(warnings.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    let memory = crate::Memory::new(4096, crate::Hugepages::Off, "test").unwrap();
    // SAFETY: the memory lives until after the release.
    let buffer = unsafe { ring.acquire_buffer(memory.as_ptr(), 4096) }.unwrap();
    ring.release_buffer(buffer);
}

#[test]
fn an_idle_ring_never_enters_the_kernel() {
    let mut ring = Ring::new(8).unwrap();
    for _ in 0..1000 {
        ring.enter().unwrap();
    }
    assert_eq!(ring.counters().enters, 0);
}

#[test]
fn polled_and_other_operations_reach_the_same_inboxes() {
    let mut ring = Ring::new(4).unwrap();
    let first = ring.register_owner(64).unwrap();
    assert!(ring.start_polling() && ring.start_polling());
    let second = ring.register_owner(64).unwrap();
    for tag in 0..64 {
        let nop = || opcode::Nop::new().build();
        // SAFETY: a no-op names no memory.
        unsafe {
            assert!(ring.push_polled(first, tag, nop()));
            ring.push(second, 100 + tag, nop());
        }
    }
    assert_eq!(ring.in_flight(), 128);
    let (mut polled, mut other) = (wait(&mut ring, first, 64), wait(&mut ring, second, 64));
    for (completions, from) in [(&mut polled, 0), (&mut other, 100)] {
        completions.sort_unstable_by_key(|completion| completion.tag);
        let tags: Vec<u32> = completions.iter().map(|completion| completion.tag).collect();
        assert_eq!(tags, (from..from + 64).collect::<Vec<_>>());
    }
    assert_eq!(ring.in_flight(), 0);
    assert_eq!((ring.counters().submitted, ring.counters().completed), (128, 128));
    let enters = ring.counters().enters;
    for _ in 0..1000 {
        ring.enter().unwrap();
    }
    assert_eq!(ring.counters().enters, enters, "nothing in flight, nothing to ask the kernel for");
}

/// A pipe cannot be polled. The kernel finds that out after it has found the file and the buffer, so that its answer tells
/// whether they are registered.
#[test]
fn what_is_registered_is_registered_in_the_polled_ring_too() {
    let mut ring = Ring::new(8).unwrap();
    let owner = ring.register_owner(1).unwrap();
    let (pipe, _other_end) = nix::unistd::pipe().unwrap();
    let memory = crate::Memory::new(16384, crate::Hugepages::Off, "test").unwrap();
    // SAFETY: within the memory, which outlives the ring's use of it.
    let half = |n: usize| unsafe { memory.as_ptr().add(n * 8192) };
    let register = |ring: &mut Ring, n| {
        // SAFETY: the memory lives until after the releases.
        let buf = unsafe { ring.acquire_buffer(half(n), 8192) }.unwrap();
        (ring.register_file(pipe.as_raw_fd()).unwrap(), buf)
    };
    let read = |ring: &mut Ring, file: FileId, buf: BufId, n| {
        let entry = opcode::ReadFixed::new(fixed_file(file), half(n), 512, buf.0).build();
        // SAFETY: the memory and the pipe live past `wait`.
        assert!(unsafe { ring.push_polled(owner, 0, entry) });
        -wait(ring, owner, 1)[0].result
    };
    let (file, buf) = register(&mut ring, 0);
    assert!(ring.start_polling());
    let (late_file, late_buf) = register(&mut ring, 1);
    let found = [libc::EOPNOTSUPP, libc::EINVAL];
    assert!(found.contains(&read(&mut ring, file, buf, 0)), "registered before the polled ring");
    assert!(found.contains(&read(&mut ring, late_file, late_buf, 1)), "registered after it");
    ring.release_buffer(buf);
    assert_eq!(read(&mut ring, file, buf, 0), libc::EFAULT);
    ring.unregister_file(late_file);
    assert_eq!(read(&mut ring, late_file, late_buf, 1), libc::EBADF);
    ring.release_buffer(late_buf);
}

#[test]
fn without_a_polled_ring_operations_go_through_the_main_one() {
    let warnings = Arc::new(Warnings::default());
    let _counted = tracing::subscriber::set_default(Arc::clone(&warnings));
    let mut ring = Ring::new(8).unwrap();
    let owner = ring.register_owner(1).unwrap();
    let nop = |ring: &mut Ring| {
        // SAFETY: a no-op names no memory.
        let polled = unsafe { ring.push_polled(owner, 5, opcode::Nop::new().build()) };
        (polled, wait(ring, owner, 1)[0])
    };
    let done = Completion { tag: 5, result: 0 };
    assert_eq!(nop(&mut ring), (false, done), "never asked for");
    assert!(ring.start_polling());
    assert_eq!(nop(&mut ring), (true, done));
    // Nothing can be registered beyond the table's end.
    ring.repeat_in_polled(|polled| polled.set_file(FILE_SLOTS, 0));
    ring.repeat_in_polled(|polled| polled.set_file(FILE_SLOTS, 0));
    assert!(!ring.start_polling());
    assert_eq!(nop(&mut ring), (false, done), "given up");
    assert_eq!(warnings.0.load(std::sync::atomic::Ordering::Relaxed), 1);
}
