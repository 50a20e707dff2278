//! Clients that mean harm, or die: each loses its own session and nothing else.

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{
    Client, GUEST, Guest, MEMORY_BYTES, Rig, USER, alone, code, eventually, footprint, memory, reactor,
};
use common::{in_flight, region, resident_bytes, words32, words64};
use nix::sys::eventfd::{EfdFlags, EventFd};
use spinblk_bdev::{Aio, AioOptions};

/// A well-behaved client is served: the socket listens and the reactor works.
fn assert_served(rig: &Rig) {
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert!(guest.start(&client, 0) && guest.work(100));
}

#[test]
fn garbage_and_half_messages_end_one_session_each() {
    let _alone = alone();
    let rig = Rig::new(1);
    let bodies: [&[u8]; 6] = [
        &[0xff; 64],
        &[0; 12],
        // A reply, another version, a length beyond any, a body that is too long.
        &words32(&[code::GET_FEATURES, 5, 0]),
        &words32(&[code::GET_FEATURES, 2, 0]),
        &words32(&[code::GET_FEATURES, 1, u32::MAX]),
        &words32(&[code::SET_FEATURES, 1, 12, 0, 0, 0]),
    ];
    for bytes in bodies {
        let client = rig.client();
        client.raw(bytes);
        assert!(client.is_dead(), "{bytes:x?}");
    }
    // Half a header, half a body, then gone.
    for bytes in [&[1, 0, 0][..], &words32(&[code::SET_FEATURES, 1, 8, 0])] {
        rig.client().raw(bytes);
    }
    assert_served(&rig);
    rig.stop();
}

#[test]
fn a_half_message_does_not_hold_up_the_end() {
    let _alone = alone();
    let rig = Rig::new(1);
    let client = rig.client();
    client.raw(&[1, 0]);
    std::thread::sleep(Duration::from_millis(50));
    let since = Instant::now();
    rig.stop();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert!(client.is_dead());
}

#[test]
fn messages_that_make_no_sense_end_the_session() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (call, null) = (EventFd::new().unwrap(), File::open("/dev/null").unwrap());
    let (call, null) = (call.as_raw_fd(), null.as_raw_fd());
    let (good, pair) = (memory(MEMORY_BYTES), UnixStream::pair().unwrap());
    let before = footprint();
    let cases: &[(u32, Vec<u8>, &[i32])] = &[
        (code::SET_FEATURES, u64::MAX.to_le_bytes().to_vec(), &[]),
        (code::SET_PROTOCOL_FEATURES, u64::MAX.to_le_bytes().to_vec(), &[]),
        (code::SET_VRING_NUM, words32(&[1, 8]), &[]),
        (code::SET_VRING_NUM, words32(&[0, 7]), &[]),
        (code::SET_VRING_NUM, words32(&[0, 0]), &[]),
        (code::SET_VRING_NUM, words32(&[0, 512]), &[]),
        (code::SET_VRING_NUM, words32(&[0, 65536 + 8]), &[]),
        (code::SET_VRING_BASE, words32(&[0, 65536]), &[]),
        (code::SET_VRING_BASE, words32(&[u32::MAX, 0]), &[]),
        (code::GET_VRING_BASE, words32(&[9, 0]), &[]),
        (code::SET_VRING_ENABLE, words32(&[0, 2]), &[]),
        (code::SET_VRING_ENABLE, words32(&[7, 1]), &[]),
        (code::SET_VRING_KICK, 200u64.to_le_bytes().to_vec(), &[call]),
        (code::SET_VRING_CALL, 0u64.to_le_bytes().to_vec(), &[null]),
        (code::SET_VRING_CALL, 0u64.to_le_bytes().to_vec(), &[]),
        (code::SET_VRING_CALL, 3u64.to_le_bytes().to_vec(), &[call]),
        (code::SET_CONFIG, words32(&[0, 4, 0, 0]), &[]),
        (code::ADD_MEM_REG, region(GUEST, MEMORY_BYTES, USER, 0), &[null]),
        (code::ADD_MEM_REG, region(GUEST, MEMORY_BYTES, USER, 0), &[]),
        (code::ADD_MEM_REG, region(GUEST, MEMORY_BYTES + 1, USER, 0), &[good.as_raw_fd()]),
        (code::ADD_MEM_REG, region(GUEST, MEMORY_BYTES, USER, 1), &[good.as_raw_fd()]),
        (code::ADD_MEM_REG, region(u64::MAX, 2, USER, 0), &[good.as_raw_fd()]),
        (code::ADD_MEM_REG, region(GUEST, 0, USER, 0), &[good.as_raw_fd()]),
        (code::REM_MEM_REG, region(GUEST, MEMORY_BYTES, USER, 0), &[]),
        (code::SET_MEM_TABLE, words32(&[1, 0]), &[good.as_raw_fd()]),
        (
            code::SET_MEM_TABLE,
            [words32(&[2, 0]), words64(&[0, 4096, 0, 0, 4095, 4096, 9 << 20, 0])].concat(),
            &[good.as_raw_fd(), good.as_raw_fd()],
        ),
        (code::GET_INFLIGHT_FD, in_flight(0, 0, 2, 8), &[]),
        (code::GET_INFLIGHT_FD, in_flight(0, 0, 0, 8), &[]),
        (code::GET_INFLIGHT_FD, in_flight(0, 0, 1, 257), &[]),
        (code::SET_INFLIGHT_FD, in_flight(192, 0, 1, 8), &[]),
        (code::SET_INFLIGHT_FD, in_flight(192, 0, 1, 8), &[null]),
        (code::SET_INFLIGHT_FD, in_flight(191, 0, 1, 8), &[good.as_raw_fd()]),
        (code::SET_INFLIGHT_FD, in_flight(192, MEMORY_BYTES - 128, 1, 8), &[good.as_raw_fd()]),
        (code::SET_INFLIGHT_FD, in_flight(u64::MAX, u64::MAX - 63, 1, 8), &[good.as_raw_fd()]),
        (code::SET_INFLIGHT_FD, in_flight(u64::MAX, 4, 1, 8), &[good.as_raw_fd()]),
        (code::SET_BACKEND_REQ_FD, vec![], &[]),
        (code::SET_BACKEND_REQ_FD, vec![], &[null]),
        (code::SET_BACKEND_REQ_FD, vec![], &[pair.0.as_raw_fd(), pair.1.as_raw_fd()]),
        (code::SET_BACKEND_REQ_FD, vec![], &[null; 20]),
        (code::SET_STATUS, vec![], &[]),
        (code::SET_STATUS, 256u64.to_le_bytes().to_vec(), &[]),
        (code::SET_STATUS, vec![0; 9], &[]),
        (code::SET_STATUS, 1u64.to_le_bytes().to_vec(), &[null]),
        (code::GET_STATUS, 0u64.to_le_bytes().to_vec(), &[]),
        (code::GET_STATUS + 256, vec![], &[]),
        (77, vec![], &[]),
    ];
    for (code, body, fds) in cases {
        let client = rig.client();
        client.hello();
        client.send(*code, 0, body, fds);
        assert!(client.is_dead(), "message {code} {body:x?}");
    }
    assert_served(&rig);
    eventually("nothing is left of them", || footprint() == before);
    rig.stop();
}

#[test]
fn configuration_space_comes_in_the_length_asked_for() {
    let _alone = alone();
    let rig = Rig::new(3);
    let client = rig.client();
    client.hello();
    let mut ask = words32(&[0, 256, 0]);
    ask.extend([0; 256]);
    let reply = client.ask(code::GET_CONFIG, &ask, &[]).unwrap();
    assert_eq!((reply.len(), &reply[4..8]), (12 + 256, &256u32.to_le_bytes()[..]));
    assert_eq!(reply[12..20], (common::DISK_BYTES / 512).to_le_bytes());
    assert!(reply[12 + 60..].iter().all(|&byte| byte == 0));
    assert_eq!(client.ask_u64(code::GET_QUEUE_NUM, &[], &[]), Some(3));
    assert!(client.ask_u64(code::GET_MAX_MEM_SLOTS, &[], &[]).unwrap() >= 32);
    rig.stop();
}

#[test]
fn rings_outside_the_memory_do_not_start() {
    let _alone = alone();
    let rig = Rig::new(1);
    for at in
        [[0, 0x1000, 0x2000], [USER, USER + MEMORY_BYTES - 16, USER], [USER, USER + 0x1000, u64::MAX - 3]]
    {
        let (client, guest) = (rig.client(), Guest::new());
        client.hello();
        let body = region(GUEST, MEMORY_BYTES, USER, 0);
        assert_eq!(client.ask_u64(code::ADD_MEM_REG, &body, &[guest.file.as_raw_fd()]), Some(0));
        assert!(!guest.start_ring(&client, 0, at), "{at:x?}");
        assert!(client.is_dead());
    }
    assert_served(&rig);
    rig.stop();
}

#[test]
fn a_broken_ring_or_a_bad_buffer_stops_nothing_else() {
    let _alone = alone();
    let rig = Rig::new(2);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert!(guest.start(&client, 0) && guest.work(10));
    // A buffer outside the memory fails that request alone.
    guest.write(16, &0xdead_0000_0000u64.to_le_bytes());
    assert!(!guest.work(1) && guest.is_done());
    guest.write(16, &(GUEST + 0x4000).to_le_bytes());
    assert!(guest.work(10));
    // An index far ahead breaks the ring; the session goes on.
    guest.write(0x1002, &guest.avail().wrapping_add(1000).to_le_bytes());
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(client.ask_u64(code::GET_QUEUE_NUM, &[], &[]), Some(2));
    let base = client.ask(code::GET_VRING_BASE, &words32(&[0, 0]), &[]).unwrap();
    assert_eq!(base[4..], u32::from(guest.avail()).to_le_bytes());
    guest.write(0x1002, &guest.avail().to_le_bytes());
    assert!(guest.start_ring(&client, 0, [USER, USER + 0x1000, USER + 0x2000]) && guest.work(10));
    rig.stop();
}

#[test]
fn memory_that_is_cut_short_ends_its_own_session_only() {
    let _alone = alone();
    let core = &[reactor(0)];
    let (bad, good) = (Rig::with_reactors(1, core), Rig::with_reactors(1, core));
    let (neighbour, mut neighbours) = (good.client(), Guest::new());
    neighbour.hello();
    assert!(neighbours.start(&neighbour, 0));
    for keep_bytes in [0, 0x1000, 0x2000, 0x4000] {
        let (client, mut guest) = (bad.client(), Guest::new());
        client.hello();
        assert!(guest.start(&client, 0) && guest.work(10));
        guest.file.set_len(keep_bytes).unwrap();
        if keep_bytes > 0x1000 {
            // The avail ring is still there and is polled; what a request needs is not.
            guest.write(0x1002, &guest.avail().wrapping_add(1).to_le_bytes());
        }
        assert!(client.is_dead(), "{keep_bytes:#x} bytes left");
        assert!(neighbours.work(100));
        assert_served(&bad);
    }
    drop(neighbour);
    good.stop();
    bad.stop();
}

#[test]
fn clients_that_vanish_under_load_leave_the_neighbour_alone() {
    let _alone = alone();
    let core = &[reactor(0)];
    // Reads of a file are in flight in the kernel, on the client's memory, when the client goes.
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(common::DISK_BYTES).unwrap();
    let options = AioOptions::default();
    let disk = Aio::open("d0", file.path(), options).unwrap();
    let (bad, good) = (Rig::over(2, Arc::new(disk), core), Rig::with_reactors(1, core));
    let (neighbour, mut neighbours) = (good.client(), Guest::new());
    neighbour.hello();
    assert!(neighbours.start(&neighbour, 0));
    for round in 0..30 {
        let (client, mut guest) = (bad.client(), Guest::new());
        client.hello();
        assert!(guest.start(&client, round % 2) && guest.work(5));
        for _ in 0..4 {
            guest.submit();
        }
        drop(client);
        assert!(neighbours.work(50));
    }
    assert_served(&bad);
    assert_eq!(bad.stop().clients, 31);
    good.stop();
}

#[test]
fn a_new_memory_table_takes_over_under_load() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert!(guest.start(&client, 0) && guest.work(10));
    let table = |len: u64| [words32(&[1, 0]), words64(&[GUEST, len, USER, 0])].concat();
    let fd = guest.file.as_raw_fd();
    for round in 0..50 {
        guest.submit();
        let len = if round % 2 == 0 { MEMORY_BYTES } else { MEMORY_BYTES / 2 };
        assert_eq!(client.ask_u64(code::SET_MEM_TABLE, &table(len), &[fd]), Some(0));
        eventually("the request of before is done", || guest.is_done());
        assert!(guest.work(20));
    }
    // A table without the ring stops the queue; it goes on when its addresses come again.
    let other = [words32(&[1, 0]), words64(&[0, 4096, 0, 0])].concat();
    assert_eq!(client.ask_u64(code::SET_MEM_TABLE, &other, &[fd]), Some(0));
    assert_eq!(client.ask_u64(code::SET_MEM_TABLE, &table(MEMORY_BYTES), &[fd]), Some(0));
    assert!(guest.start_ring(&client, 0, [USER, USER + 0x1000, USER + 0x2000]) && guest.work(20));
    rig.stop();
}

#[test]
fn interrupts_arrive_whatever_the_eventfd_and_follow_it_when_it_changes() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert!(guest.start(&client, 0));
    for flags in [EfdFlags::empty(), EfdFlags::EFD_NONBLOCK] {
        let call = EventFd::from_value_and_flags(0, flags | EfdFlags::EFD_CLOEXEC).unwrap();
        let vring = 0u64.to_le_bytes();
        assert_eq!(client.ask_u64(code::SET_VRING_CALL, &vring, &[call.as_raw_fd()]), Some(0));
        let wait = || {
            let mut polled =
                [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&call), nix::poll::PollFlags::POLLIN)];
            assert_eq!(nix::poll::poll(&mut polled, 5000u16).unwrap(), 1, "an interrupt is lost");
            call.read().unwrap();
        };
        // One for whatever the descriptor before it may have missed.
        wait();
        let since = Instant::now();
        for _ in 0..2000 {
            guest.submit();
            wait();
            assert!(guest.is_done());
        }
        eprintln!("{flags:?}: {:?} for each request with its interrupt", since.elapsed() / 2000);
    }
    rig.stop();
}

#[test]
fn an_eventfd_that_is_full_holds_up_nobody() {
    let _alone = alone();
    let rig = Rig::new(1);
    for flags in [EfdFlags::empty(), EfdFlags::EFD_NONBLOCK] {
        let (client, mut guest) = (rig.client(), Guest::new());
        client.hello();
        assert!(guest.start(&client, 0));
        let full = EventFd::from_value_and_flags(0, flags).unwrap();
        full.write(u64::MAX - 1).unwrap();
        let vring = 0u64.to_le_bytes();
        assert_eq!(client.ask_u64(code::SET_VRING_CALL, &vring, &[full.as_raw_fd()]), Some(0));
        assert!(guest.work(100));
        drop(client);
        let since = Instant::now();
        assert_served(&rig);
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    }
    rig.stop();
}

#[test]
fn the_second_client_waits_for_the_first() {
    let _alone = alone();
    let rig = Rig::new(1);
    let first = rig.client();
    first.hello();
    let second = rig.client();
    second.send(code::GET_FEATURES, 0, &[], &[]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(first.ask_u64(code::GET_QUEUE_NUM, &[], &[]), Some(1));
    drop(first);
    second.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reply = [0; 20];
    std::io::Read::read_exact(&mut &second.0, &mut reply).unwrap();
    rig.stop();
}

#[test]
fn a_thousand_clients_leave_nothing_behind() {
    let _alone = alone();
    let rig = Rig::new(2);
    let cycle = |rig: &Rig| {
        let (client, mut guest) = (rig.client(), Guest::new());
        client.hello();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[ours.as_raw_fd()]), Some(0));
        let (reply, log) = client.ask_file(code::GET_INFLIGHT_FD, &in_flight(0, 0, 2, 256));
        assert_eq!(client.ask_u64(code::SET_INFLIGHT_FD, &reply, &[log.as_raw_fd()]), Some(0));
        assert!(guest.start(&client, 0) && guest.work(3));
    };
    let idle = |rig: &Rig| {
        // A client that is answered comes after everything that the last one left was cleared away.
        let client: Client = rig.client();
        client.hello();
        (footprint(), resident_bytes())
    };
    // The allocator and the kernel's caches settle in the first rounds.
    for _ in 0..100 {
        cycle(&rig);
    }
    let (before, memory_before) = idle(&rig);
    for _ in 0..1000 {
        cycle(&rig);
    }
    let (after, memory_after) = idle(&rig);
    assert_eq!(after, before);
    let grown = memory_after.saturating_sub(memory_before);
    assert!(grown < 1 << 20, "{grown} bytes more after a thousand clients");
    assert_eq!(rig.stop().clients, 1102);
}
