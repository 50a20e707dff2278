//! Interrupts and kicks with drivers that we did not write, with EVENT_IDX and without: every interrupt that is wanted
//! comes, none that is not, and no driver is asked to kick.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use common::{Rig, alone};
use nix::poll::{PollFd, PollFlags, poll};
use spinblk_perf::QueueSnapshot;
use spinblk_vhost_user::RingOptions;
use virtio_driver::{VhostUser, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags};

const REQUESTS: u64 = 500;

fn rig(event_idx: bool) -> Rig {
    Rig::offering(RingOptions { event_idx, ..RingOptions::default() })
}

fn connect(rig: &Rig) -> (Blkio, Blkioq) {
    let mut client = Blkio::new("virtio-blk-vhost-user").unwrap();
    client.set_str("path", rig.socket.to_str().unwrap()).unwrap();
    client.connect().unwrap();
    client.set_i32("queue-size", 64).unwrap();
    let queue = client.start().unwrap().queues.remove(0);
    (client, queue)
}

/// Takes what is done, at most one.
fn take(queue: &mut Blkioq) -> usize {
    let mut done = [std::mem::MaybeUninit::<Completion>::uninit()];
    let count = queue.do_io(&mut done, 0, None, None).unwrap();
    if count == 1 {
        // SAFETY: one completion was written, as the count says.
        assert_eq!(unsafe { done[0].assume_init_ref() }.ret, 0);
    }
    count
}

fn the_stats(rig: Rig) -> QueueSnapshot {
    let stats = rig.stop().queues.swap_remove(0).board.snapshot();
    assert_eq!(stats.requests, REQUESTS);
    stats
}

#[test]
fn a_client_that_waits_gets_every_interrupt() {
    let _alone = alone();
    for event_idx in [true, false] {
        let rig = rig(event_idx);
        let (client, mut queue) = connect(&rig);
        queue.set_completion_fd_enabled(true);
        // SAFETY: the queue owns the descriptor and outlives its use here.
        let fd = unsafe { BorrowedFd::borrow_raw(queue.get_completion_fd().unwrap()) };
        for request in 0..REQUESTS {
            queue.flush(request as usize, ReqFlags::empty());
            queue.do_io(&mut [], 0, None, None).unwrap();
            let mut taken = 0;
            while taken == 0 {
                let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
                assert_eq!(poll(&mut polled, 5000u16).unwrap(), 1, "interrupt {request} is lost");
                nix::unistd::read(fd, &mut [0; 8]).unwrap();
                taken = take(&mut queue);
            }
        }
        drop((queue, client));
        let stats = the_stats(rig);
        let counts = (stats.interrupts_sent, stats.interrupts_suppressed);
        assert_eq!(counts, (REQUESTS, 0), "event_idx {event_idx}");
    }
}

#[test]
fn a_client_that_polls_gets_no_interrupts() {
    let _alone = alone();
    for event_idx in [true, false] {
        let rig = rig(event_idx);
        let (client, mut queue) = connect(&rig);
        for request in 0..REQUESTS {
            queue.flush(request as usize, ReqFlags::empty());
            let deadline = Instant::now() + Duration::from_secs(20);
            while take(&mut queue) == 0 {
                assert!(Instant::now() < deadline, "request {request} is not answered");
                std::thread::yield_now();
            }
        }
        drop((queue, client));
        let stats = the_stats(rig);
        // With EVENT_IDX a driver cannot switch interrupts off, only put them far away: one comes when the index gets there.
        let most = u64::from(event_idx);
        assert!(stats.interrupts_sent <= most, "event_idx {event_idx}: {}", stats.interrupts_sent);
        assert_eq!(stats.interrupts_sent + stats.interrupts_suppressed, REQUESTS);
    }
}

#[test]
fn no_driver_is_asked_to_kick() {
    let _alone = alone();
    for event_idx in [true, false] {
        for packed in [false, true] {
            // More than a split ring's index of 16 bits can count. The packed driver's own count of descriptors that it has not
            // kicked for overflows there, at two for each flush.
            let flushes = if packed { 30_000 } else { 70_000 };
            let rig = rig(event_idx);
            let mut wanted = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
            wanted.set(VirtioFeatureFlags::RING_PACKED, packed);
            let mut transport =
                VhostUser::new(rig.socket.to_str().unwrap(), wanted.bits() | 1 << 9 | 1 << 12).unwrap();
            let transport: &mut VirtioBlkTransport = &mut transport;
            assert_eq!(transport.get_features() & 1 << 29 != 0, event_idx);
            let mut queues = VirtioBlkQueue::<u32>::setup_queues(transport, 1, 64).unwrap();
            let queue = &mut queues[0];
            for context in 0..flushes {
                queue.flush(context).unwrap();
                assert!(!queue.avail_notif_needed(), "event_idx {event_idx}, packed {packed}: {context}");
                let deadline = Instant::now() + Duration::from_secs(20);
                let done = loop {
                    if let Some(done) = queue.completions().next() {
                        break done;
                    }
                    assert!(Instant::now() < deadline, "request {context} is not answered");
                    std::hint::spin_loop();
                };
                assert_eq!((done.context, done.ret), (context, 0));
            }
            drop(queues);
            assert_eq!(rig.stop().queues[0].board.snapshot().requests, u64::from(flushes));
        }
    }
}
