//! What a client may say beyond rings and memory: the device status, the backend channel, the in-flight logs.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{Guest, Rig, SIZE, USER, alone, code, eventually, in_flight, memory};

const DRIVER: u64 = 3;
const DRIVER_OK: u64 = 4;
const FEATURES_OK: u64 = 8;
const NEEDS_RESET: u64 = 0x40;
/// A change of the configuration space, as the client reads it.
const CONFIG_CHANGE: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn the_status_is_kept_and_zero_resets() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert_eq!(client.status(), 0);
    for status in [1, DRIVER, DRIVER | FEATURES_OK, DRIVER | FEATURES_OK | DRIVER_OK] {
        assert_eq!(client.set_status(status), 0);
        assert_eq!(client.status(), status);
    }
    assert!(guest.start(&client, 0) && guest.work(10));
    assert_eq!(client.set_status(0), 0);
    assert_eq!(client.status(), 0);
    guest.submit();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!guest.is_done(), "a reset device serves nothing");
    // The memory is still there.
    guest.take_back();
    assert!(guest.start_ring(&client, 0, [USER, USER + 0x1000, USER + 0x2000]) && guest.work(10));
    // Without asking for an answer, as QEMU does it, and in pieces.
    client.send(code::SET_STATUS, 0, &1u64.to_le_bytes(), &[]);
    let header = [code::GET_STATUS, 1, 0].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    for byte in header {
        client.raw(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut reply = [0; 20];
    (&client.0).read_exact(&mut reply).unwrap();
    assert_eq!(reply[..12], [40, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(reply[12..], 1u64.to_le_bytes());
    rig.stop();
}

#[test]
fn features_that_will_not_do_are_not_ok() {
    let _alone = alone();
    let rig = Rig::new(1);
    let client = rig.client();
    client.hello();
    client.send(code::SET_FEATURES, 0, &(1u64 << 30).to_le_bytes(), &[]);
    client.set_status(DRIVER | FEATURES_OK);
    assert_eq!(client.status(), DRIVER);
    client.send(code::SET_FEATURES, 0, &(1u64 << 30 | 1 << 32).to_le_bytes(), &[]);
    client.set_status(DRIVER | FEATURES_OK);
    assert_eq!(client.status(), DRIVER | FEATURES_OK);
    // Neither is known before it was negotiated.
    let silent = {
        drop(client);
        rig.client()
    };
    silent.send(code::GET_STATUS, 0, &[], &[]);
    assert!(silent.is_dead());
    rig.stop();
}

#[test]
fn a_broken_ring_needs_a_reset_and_says_so() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[ours.as_raw_fd()]), Some(0));
    assert!(guest.start(&client, 0) && guest.work(5));
    client.set_status(DRIVER | FEATURES_OK | DRIVER_OK);
    guest.write(0x1002, &guest.avail().wrapping_add(1000).to_le_bytes());
    eventually("the status tells of it", || client.status() & NEEDS_RESET != 0);
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut message = [0; 12];
    theirs.read_exact(&mut message).unwrap();
    assert_eq!(message, CONFIG_CHANGE);
    client.set_status(DRIVER | FEATURES_OK | DRIVER_OK);
    assert_ne!(client.status() & NEEDS_RESET, 0, "only a reset takes it away");
    client.set_status(0);
    assert_eq!(client.status(), 0);
    guest.write(0x1002, &guest.avail().to_le_bytes());
    assert!(guest.start_ring(&client, 0, [USER, USER + 0x1000, USER + 0x2000]) && guest.work(10));
    rig.stop();
}

#[test]
fn a_client_with_a_channel_is_told_of_a_new_configuration() {
    let _alone = alone();
    let rig = Rig::new(1);
    // Without a client, and without a channel, there is nobody to tell.
    rig.announce_config_change();
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    rig.announce_config_change();
    assert_eq!(client.status(), 0);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[ours.as_raw_fd()]), Some(0));
    theirs.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "what was before is over");
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..3 {
        rig.announce_config_change();
        let mut message = [0; 12];
        theirs.read_exact(&mut message).unwrap();
        assert_eq!(message, CONFIG_CHANGE);
    }
    // One that never reads, and one that hung up, hold up nobody.
    assert!(guest.start(&client, 0));
    for _ in 0..2000 {
        rig.announce_config_change();
        assert!(guest.work(1));
    }
    drop((ours, theirs));
    rig.announce_config_change();
    assert_eq!(client.status(), 0);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[ours.as_raw_fd()]), Some(0));
    rig.announce_config_change();
    theirs.read_exact(&mut [0; 12]).unwrap();
    drop((client, ours));
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "it is closed with the session");
    rig.stop();
}

#[test]
fn in_flight_memory_is_given_taken_back_and_bounded() {
    let _alone = alone();
    let rig = Rig::new(2);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    let (reply, log) = client.ask_file(code::GET_INFLIGHT_FD, &in_flight(0, 0, 2, SIZE));
    let bytes = 2 * (16u64 + 16 * u64::from(SIZE)).next_multiple_of(64);
    // The last bytes are padding.
    assert_eq!(reply[..20], in_flight(bytes, 0, 2, SIZE)[..20]);
    assert_eq!(log.metadata().unwrap().len(), bytes);
    assert!(log.set_len(0).is_err(), "sealed");
    assert_eq!(client.ask_u64(code::SET_INFLIGHT_FD, &reply, &[log.as_raw_fd()]), Some(0));
    assert!(guest.start(&client, 0) && guest.work(10));
    client.send(code::SET_INFLIGHT_FD, 0, &reply, &[log.as_raw_fd()]);
    assert!(client.is_dead(), "not while a queue runs");
    // A packed ring needs more for each entry.
    let client = rig.client();
    client.hello();
    client.send(code::SET_FEATURES, 0, &(1u64 << 30 | 1 << 32 | 1 << 34).to_le_bytes(), &[]);
    let (reply, _log) = client.ask_file(code::GET_INFLIGHT_FD, &in_flight(0, 0, 1, 7));
    assert_eq!(reply[..20], in_flight(256, 0, 1, 7)[..20]);
    rig.stop();
}

#[test]
fn a_log_that_is_cut_short_or_foreign_ends_its_own_session_only() {
    let _alone = alone();
    let rig = Rig::new(1);
    let body = in_flight(4096, 4096, 1, SIZE);
    // Another version, and another size.
    for header in [[2, 0, SIZE as u8, 0], [1, 0, SIZE as u8 + 1, 0]] {
        let (client, guest, log) = (rig.client(), Guest::new(), memory(8192));
        client.hello();
        log.write_all_at(&header, 4096 + 8).unwrap();
        assert_eq!(client.ask_u64(code::SET_INFLIGHT_FD, &body, &[log.as_raw_fd()]), Some(0));
        assert!(!guest.start(&client, 0) && client.is_dead());
    }
    let (client, mut guest, log) = (rig.client(), Guest::new(), memory(8192));
    client.hello();
    assert_eq!(client.ask_u64(code::SET_INFLIGHT_FD, &body, &[log.as_raw_fd()]), Some(0));
    log.set_len(0).unwrap();
    assert!(!guest.start(&client, 0) || !guest.work(1) || client.is_dead());
    assert!(client.is_dead());
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert!(guest.start(&client, 0) && guest.work(10));
    rig.stop();
}
