//! Descriptors run out: whatever a client sends then, nothing is left of it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use common::{Rig, code, footprint};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Free places for descriptors, of which a connection takes a few.
const FREE: u64 = 60;

/// The limit is the whole process's: this file has one test.
#[test]
fn more_descriptors_than_places_for_them_are_all_closed() {
    let rig = Rig::new(1);
    let null = File::open("/dev/null").unwrap();
    let idle = || {
        let client = rig.client();
        client.hello();
        footprint()
    };
    let before = idle();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let most: [RawFd; 200] = [null.as_raw_fd(); 200];
    let cases: [(u32, &[u8]); 4] = [
        (code::GET_STATUS, &[]),
        (code::SET_STATUS, &[0; 8]),
        (code::SET_BACKEND_REQ_FD, &[]),
        (code::ADD_MEM_REG, &[0; 40]),
    ];
    for (code, body) in cases {
        let client = rig.client();
        client.hello();
        // An answer means that the connection has all the descriptors that it needs.
        client.status();
        setrlimit(Resource::RLIMIT_NOFILE, before.0 as u64 + FREE, hard).unwrap();
        client.send(code, 0, body, &most);
        let dead = client.is_dead();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert!(dead, "message {code}");
        drop(client);
        assert_eq!(idle(), before, "message {code} leaves descriptors behind");
    }
    rig.stop();
}
