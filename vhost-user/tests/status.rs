//! The device status as a virtual machine monitor uses it, and its messages in every form that a stream can bring.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{Client, Guest, Rig, USER, alone, code, footprint, words32};

const ACKNOWLEDGE: u64 = 1;
const DRIVER: u64 = 2;
const DRIVER_OK: u64 = 4;
const FEATURES_OK: u64 = 8;
const AT_WORK: u64 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

const REPLY_ACK: u64 = 1 << 3;
const STATUS: u64 = 1 << 16;
const RING: [u64; 3] = [USER, USER + 0x1000, USER + 0x2000];

/// A virtual machine monitor reads the status, adds bits, writes it without asking for an answer, and never reads it back.
fn add(client: &Client, bits: u64) {
    let now = client.status();
    if now & bits != bits {
        client.send(code::SET_STATUS, 0, &(now | bits).to_le_bytes(), &[]);
    }
}

/// What a client says first, with protocol features of the test's choice.
fn hello(client: &Client, protocol: u64) {
    client.send(code::SET_OWNER, 0, &[], &[]);
    assert_ne!(client.ask_u64(code::GET_PROTOCOL_FEATURES, &[], &[]).unwrap() & STATUS, 0);
    client.send(code::SET_PROTOCOL_FEATURES, 0, &protocol.to_le_bytes(), &[]);
    client.ask_u64(code::GET_FEATURES, &[], &[]).unwrap();
}

#[test]
fn a_machine_starts_pauses_goes_on_and_resets() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert_eq!(client.status(), 0);
    add(&client, FEATURES_OK);
    assert!(guest.start(&client, 0));
    add(&client, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(client.status(), AT_WORK);
    assert!(guest.work(10));
    // A machine that pauses stops its rings, then writes 0; its memory stays, and the ring goes on where it stood.
    for _ in 0..3 {
        let base = client.ask(code::GET_VRING_BASE, &words32(&[0, 0]), &[]).unwrap();
        assert_eq!(base[4..], u32::from(guest.avail()).to_le_bytes());
        client.send(code::SET_STATUS, 0, &0u64.to_le_bytes(), &[]);
        assert_eq!(client.status(), 0);
        add(&client, FEATURES_OK);
        assert!(guest.start_ring(&client, 0, RING));
        add(&client, ACKNOWLEDGE | DRIVER | DRIVER_OK);
        assert!(guest.work(10));
    }
    // A reset without a word before it takes the ring away from under the driver.
    assert_eq!(client.set_status(0), 0);
    guest.submit();
    std::thread::sleep(Duration::from_millis(20));
    assert!(!guest.is_done(), "a device that was reset is at work");
    rig.stop();
}

#[test]
fn answers_come_when_they_were_negotiated() {
    let _alone = alone();
    let rig = Rig::new(1);
    let client = rig.client();
    hello(&client, STATUS);
    // The flag means nothing without REPLY_ACK: the next bytes are the answer to GET_STATUS.
    client.send(code::SET_STATUS, 8, &ACKNOWLEDGE.to_le_bytes(), &[]);
    client.send(code::GET_STATUS, 0, &[], &[]);
    client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reply = [0; 20];
    (&client.0).read_exact(&mut reply).unwrap();
    let expected = [words32(&[code::GET_STATUS, 5, 8]), ACKNOWLEDGE.to_le_bytes().to_vec()].concat();
    assert_eq!(reply[..], expected);
    rig.stop();
}

#[test]
fn messages_in_crumbs_and_in_one_piece_are_the_same() {
    let _alone = alone();
    let rig = Rig::new(1);
    let client = rig.client();
    hello(&client, STATUS | REPLY_ACK);
    let message = [words32(&[code::SET_STATUS, 9, 8]), ACKNOWLEDGE.to_le_bytes().to_vec()].concat();
    for byte in &message {
        (&client.0).write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut ack = [0; 20];
    (&client.0).read_exact(&mut ack).unwrap();
    assert_eq!(ack[..], [words32(&[code::SET_STATUS, 5, 8]), vec![0; 8]].concat());
    // Several at once: ours and the crate's in turn.
    let queues = words32(&[code::GET_QUEUE_NUM, 1, 0]);
    let get = words32(&[code::GET_STATUS, 1, 0]);
    client.raw(&[message.clone(), get.clone(), message, get].concat());
    for (code, word) in [(39, 0), (40, ACKNOWLEDGE), (39, 0), (40, ACKNOWLEDGE)] {
        (&client.0).read_exact(&mut ack).unwrap();
        assert_eq!(ack[..], [words32(&[code, 5, 8]), word.to_le_bytes().to_vec()].concat());
    }
    client.raw(&queues);
    assert!(client.is_dead(), "MQ was not negotiated");
    rig.stop();
}

#[test]
fn nonsense_ends_the_session_and_leaves_nothing() {
    let _alone = alone();
    let rig = Rig::new(1);
    let null = File::open("/dev/null").unwrap();
    let null = null.as_raw_fd();
    let idle = || {
        let client = rig.client();
        client.hello();
        footprint()
    };
    let before = idle();
    let cases: &[(u32, u32, Vec<u8>, &[i32])] = &[
        (code::SET_STATUS, 0, vec![], &[]),
        (code::SET_STATUS, 0, vec![0; 4], &[]),
        (code::SET_STATUS, 0, vec![0; 16], &[]),
        (code::SET_STATUS, 0, 0x100u64.to_le_bytes().to_vec(), &[]),
        (code::SET_STATUS, 0, u64::MAX.to_le_bytes().to_vec(), &[]),
        (code::SET_STATUS, 0, vec![0; 8], &[null]),
        (code::SET_STATUS, 4, vec![0; 8], &[]),
        (code::SET_STATUS, 2, vec![0; 8], &[]),
        (code::SET_STATUS | 0x100, 0, vec![0; 8], &[]),
        (code::GET_STATUS, 0, vec![0; 8], &[]),
        (code::GET_STATUS, 0, vec![], &[null; 20]),
        (code::GET_STATUS, 0, vec![], &[null; 100]),
    ];
    for (code, flags, body, fds) in cases {
        let client = rig.client();
        client.hello();
        client.send(*code, *flags, body, fds);
        assert!(client.is_dead(), "message {code:#x}, flags {flags}, {body:x?}, {} fds", fds.len());
    }
    for code in [code::SET_STATUS, code::GET_STATUS] {
        let client = rig.client();
        hello(&client, REPLY_ACK);
        client.send(code, 0, &vec![0; if code == code::SET_STATUS { 8 } else { 0 }], &[]);
        assert!(client.is_dead(), "message {code} that was not negotiated");
        // Half a message, then gone, or then nothing for as long as the client likes.
        let client = rig.client();
        hello(&client, STATUS | REPLY_ACK);
        client.raw(&words32(&[code, 1])[..7]);
    }
    assert_eq!(idle(), before);
    let held = rig.client();
    hello(&held, STATUS);
    held.raw(&words32(&[code::SET_STATUS, 1, 8]));
    std::thread::sleep(Duration::from_millis(50));
    let since = std::time::Instant::now();
    rig.stop();
    assert!(since.elapsed() < Duration::from_secs(2), "half a message holds up the end");
}
