//! The backend channel: a client that hands one over is told when the configuration space changes, and can do no harm by it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use common::{Client, Guest, Rig, alone, code, eventually, footprint, words32};

const REPLY_ACK: u64 = 1 << 3;
const BACKEND_REQ: u64 = 1 << 5;
const CONFIG: u64 = 1 << 9;

/// Hands a new channel over; the client's end comes back.
fn channel(client: &Client) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]), Some(0));
    ours.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    ours
}

fn is_told(mut channel: &UnixStream) -> bool {
    let mut message = [0; 12];
    // CONFIG_CHANGE_MSG, version 1, no body, no answer wanted.
    channel.read_exact(&mut message).is_ok_and(|()| message[..] == words32(&[2, 1, 0]))
}

fn is_silent(mut channel: &UnixStream) -> bool {
    channel.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let got = channel.read(&mut [0; 12]);
    got.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}

fn hello(client: &Client, protocol: u64) {
    client.ask_u64(code::GET_FEATURES, &[], &[]).unwrap();
    client.send(code::SET_PROTOCOL_FEATURES, 0, &protocol.to_le_bytes(), &[]);
}

#[test]
fn a_client_is_told_on_its_latest_channel() {
    let _alone = alone();
    let rig = Rig::new(1);
    rig.announce_config_change();
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    assert!(guest.start(&client, 0));
    let first = channel(&client);
    assert!(is_silent(&first), "what changed before it came is in what it reads");
    first.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..10 {
        rig.announce_config_change();
        assert!(is_told(&first) && guest.work(10));
    }
    let second = channel(&client);
    rig.announce_config_change();
    assert!(is_told(&second));
    assert_eq!((&first).read(&mut [0; 12]).unwrap(), 0, "the first channel is closed");
    drop(client);
    assert_eq!((&second).read(&mut [0; 12]).unwrap(), 0, "and the second with its client");
    rig.stop();
}

#[test]
fn nobody_is_told_who_did_not_ask() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = rig.client();
    hello(&client, REPLY_ACK | BACKEND_REQ);
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]), Some(0));
    rig.announce_config_change();
    assert!(is_silent(&ours), "CONFIG was not negotiated");
    drop(client);
    let client = rig.client();
    hello(&client, REPLY_ACK | CONFIG);
    client.send(code::SET_BACKEND_REQ_FD, 0, &[], &[theirs.as_raw_fd()]);
    assert!(client.is_dead(), "BACKEND_REQ was not negotiated");
    rig.stop();
}

#[test]
fn a_client_that_never_reads_holds_up_nobody() {
    let _alone = alone();
    let rig = Rig::new(1);
    let (client, mut guest) = (rig.client(), Guest::new());
    client.hello();
    let channel = channel(&client);
    assert!(guest.start(&client, 0));
    let since = Instant::now();
    for _ in 0..5000 {
        rig.announce_config_change();
        // An answer comes after the change was taken.
        assert_eq!(client.ask_u64(code::GET_QUEUE_NUM, &[], &[]), Some(1));
    }
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    assert!(guest.work(100));
    // What fitted is there, whole messages all of them; then it is told again.
    channel.set_nonblocking(true).unwrap();
    let fitted = (0..6000).take_while(|_| is_told(&channel)).count();
    assert!((1..5000).contains(&fitted), "{fitted}");
    channel.set_nonblocking(false).unwrap();
    rig.announce_config_change();
    assert!(is_told(&channel));
    // It hangs up on the channel alone, and goes on.
    drop(channel);
    rig.announce_config_change();
    assert!(guest.work(100));
    assert_eq!(client.ask_u64(code::GET_QUEUE_NUM, &[], &[]), Some(1));
    rig.stop();
}

#[test]
fn what_cannot_be_a_channel_ends_the_session() {
    let _alone = alone();
    let rig = Rig::new(1);
    let folder = tempfile::tempdir().unwrap();
    let null = File::open("/dev/null").unwrap();
    let datagram = UnixDatagram::unbound().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (stream, _other) = UnixStream::pair().unwrap();
    let listener = UnixListener::bind(folder.path().join("listener")).unwrap();
    let idle = || {
        let client = rig.client();
        client.hello();
        footprint()
    };
    let before = idle();
    let bad: [&[RawFd]; 6] = [
        &[],
        &[null.as_raw_fd()],
        &[datagram.as_raw_fd()],
        &[tcp.as_raw_fd()],
        &[stream.as_raw_fd(), stream.as_raw_fd()],
        &[stream.as_raw_fd(); 200],
    ];
    for fds in bad {
        let client = rig.client();
        client.hello();
        client.send(code::SET_BACKEND_REQ_FD, 0, &[], fds);
        assert!(client.is_dead(), "{} descriptors", fds.len());
    }
    // One that nothing can be sent on, and the client's own connection.
    let client = rig.client();
    client.hello();
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[listener.as_raw_fd()]), Some(0));
    rig.announce_config_change();
    assert_eq!(client.ask_u64(code::GET_QUEUE_NUM, &[], &[]), Some(1));
    assert_eq!(client.ask_u64(code::SET_BACKEND_REQ_FD, &[], &[client.0.as_raw_fd()]), Some(0));
    rig.announce_config_change();
    assert!(client.is_dead(), "the server reads its own message, which makes no sense");
    drop(client);
    eventually("nothing is left of them", || idle() == before);
    rig.stop();
}
