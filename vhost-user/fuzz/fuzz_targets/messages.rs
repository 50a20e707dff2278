//! A hostile vhost-user client: any messages in any order, with any descriptors, memory that shrinks, rings that change
//! while they are served, bytes that are no message at all. The session must end without a panic, a hang, or a touch of
//! memory outside the map, which the address sanitizer watches.
#![no_main]

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use spinblk_bdev::{Bdev, Malloc};
use spinblk_reactor::{Config, Handle, Hugepages, off_reactor_cores};
use spinblk_vhost_user::{ServerConfig, testing};

const GUEST: u64 = 0x10_0000;
const USER: u64 = 0x7000_0000;
const MEMORY_BYTES: u64 = 64 << 10;
/// Where logs lie in it.
const LOG_AT: u64 = 0x8000;
const MAX_STEPS: usize = 64;
const NEED_REPLY: u32 = 8;

const SET_FEATURES: u32 = 2;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_KICK: u32 = 12;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_INFLIGHT_FD: u32 = 31;
const SET_INFLIGHT_FD: u32 = 32;
const ADD_MEM_REG: u32 = 37;
const SET_STATUS: u32 = 39;
const GET_STATUS: u32 = 40;

/// Virtio features: PROTOCOL_FEATURES, VERSION_1, EVENT_IDX, RING_PACKED.
const FEATURES: [u64; 4] = [1 << 30 | 1 << 32 | 1 << 29, 1 << 32, 1 << 30 | 1 << 32 | 1 << 34, 1 << 30];
/// Protocol features: all that are offered, those of old, or none.
const PROTOCOL: [u64; 3] = [0x1_b229, 0xa209, 0];

#[derive(Arbitrary, Debug)]
enum Step {
    /// Any message.
    Message {
        code: u8,
        flags: u8,
        body: Body,
        fds: Vec<Fd>,
    },
    /// A message cut or stretched against what its header says.
    Lying {
        code: u8,
        says: u32,
        body: Body,
    },
    /// Bytes.
    Raw(Vec<u8>),
    /// What every client begins with.
    Hello {
        features: u8,
        protocol: u8,
    },
    /// A ring set up as it should be.
    Ring {
        queue: u8,
        size: u8,
    },
    /// Where a ring goes on, as a packed one counts.
    Base {
        queue: u8,
        avail: u8,
        used: u8,
        wraps: u8,
    },
    /// The device status, set or asked for.
    Status {
        status: Option<u8>,
        need_reply: bool,
    },
    /// The backend channel.
    Channel(Fd),
    /// Memory for in-flight logs is asked for, or handed over with what `Poke` wrote to it.
    AskForLog {
        queues: u8,
        queue_size: u16,
    },
    Log {
        len: Length,
        offset: u16,
        queues: u8,
        queue_size: u8,
        fd: Fd,
    },
    /// A log that somebody left behind: a header, and entries of either format.
    LeftLog {
        version: u8,
        entries: u8,
        heads: [u16; 4],
        state: [u8; 32],
    },
    /// The memory changes under the server.
    Poke {
        at: u16,
        bytes: [u8; 8],
    },
    /// The memory goes away.
    Cut {
        len: u32,
    },
}

#[derive(Arbitrary, Debug)]
enum Body {
    Word(u64),
    State { index: u8, num: u32 },
    Addresses { index: u8, desc: Address, used: Address, avail: Address },
    Region { guest: Address, len: Length, user: Address, offset: u16 },
    Table { regions: Vec<(Address, Length, Address, u16)> },
    Config { offset: u16, size: u16, sent: u16 },
    Log { len: u64, offset: u64, queues: u16, queue_size: u16 },
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    Near(u16),
    Any(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Length {
    All,
    Some(u16),
    Any(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Fd {
    Memory,
    Event,
    BlockingEvent,
    FullEvent,
    Null,
    Socket,
}

impl Address {
    fn at(self, base: u64) -> u64 {
        match self {
            Self::Near(offset) => base + u64::from(offset),
            Self::Any(address) => address,
        }
    }
}

impl Length {
    fn bytes(self) -> u64 {
        match self {
            Self::All => MEMORY_BYTES,
            Self::Some(bytes) => bytes.into(),
            Self::Any(bytes) => bytes,
        }
    }
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        let long = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let short = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        match self {
            Self::Word(word) => long(&[*word]),
            Self::State { index, num } => short(&[u32::from(*index) % 4, *num]),
            Self::Addresses { index, desc, used, avail } => {
                let at = [desc.at(USER), used.at(USER), avail.at(USER), 0];
                [short(&[u32::from(*index) % 4, 0]), long(&at)].concat()
            }
            Self::Region { guest, len, user, offset } => {
                long(&[0, guest.at(GUEST), len.bytes(), user.at(USER), u64::from(*offset)])
            }
            Self::Table { regions } => {
                let regions = &regions[..regions.len().min(40)];
                let region = |(guest, len, user, offset): &(Address, Length, Address, u16)| {
                    long(&[guest.at(GUEST), len.bytes(), user.at(USER), u64::from(*offset)])
                };
                [short(&[regions.len() as u32, 0]), regions.iter().flat_map(region).collect()].concat()
            }
            Self::Config { offset, size, sent } => {
                [short(&[(*offset).into(), (*size).into(), 0]), vec![0; usize::from(*sent % 5000)]].concat()
            }
            Self::Log { len, offset, queues, queue_size } => {
                let sizes = u32::from(*queues) | u32::from(*queue_size) << 16;
                [long(&[*len, *offset]), short(&[sizes, 0])].concat()
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// What a client owns.
struct Client {
    socket: UnixStream,
    memory: File,
    events: [EventFd; 3],
    null: File,
}

impl Client {
    fn new(socket: UnixStream) -> Self {
        let memory: OwnedFd = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).unwrap();
        let memory = File::from(memory);
        memory.set_len(MEMORY_BYTES).unwrap();
        let event = |flags| EventFd::from_value_and_flags(0, flags).unwrap();
        let events = [event(EfdFlags::EFD_NONBLOCK), event(EfdFlags::empty()), event(EfdFlags::empty())];
        events[2].write(u64::MAX - 1).unwrap();
        Self { socket, memory, events, null: File::open("/dev/null").unwrap() }
    }

    fn fd(&self, fd: Fd) -> i32 {
        match fd {
            Fd::Memory => self.memory.as_raw_fd(),
            Fd::Event => self.events[0].as_raw_fd(),
            Fd::BlockingEvent => self.events[1].as_raw_fd(),
            Fd::FullEvent => self.events[2].as_raw_fd(),
            Fd::Null => self.null.as_raw_fd(),
            Fd::Socket => self.socket.as_raw_fd(),
        }
    }

    fn send(&self, bytes: &[u8], fds: &[i32]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        // The server has hung up on nonsense.
        let _ = sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
    }

    fn message(&self, code: u32, flags: u32, says: usize, body: &[u8], fds: &[i32]) {
        let header = [code, flags, says as u32];
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.send(&[header, body.to_vec()].concat(), fds);
    }

    fn say(&self, code: u32, body: &Body, fds: &[i32]) {
        let body = body.bytes();
        self.message(code, 1, body.len(), &body, fds);
    }

    fn ring(&self, queue: u8, size: u8) {
        let (guest, user) = (Address::Near(0), Address::Near(0));
        let (memory, event) = (self.fd(Fd::Memory), self.fd(Fd::Event));
        let state = |num| Body::State { index: queue, num };
        let vring = Body::Word(u64::from(queue) % 4);
        self.say(ADD_MEM_REG, &Body::Region { guest, len: Length::All, user, offset: 0 }, &[memory]);
        self.say(
            SET_VRING_NUM,
            &state(if size & 1 == 0 { 1 << (size / 2 % 8) } else { u32::from(size) / 2 }),
            &[],
        );
        let [desc, avail, used] = [0, 0x1000, 0x2000].map(Address::Near);
        self.say(SET_VRING_ADDR, &Body::Addresses { index: queue, desc, used, avail }, &[]);
        self.say(SET_VRING_CALL, &vring, &[event]);
        self.say(SET_VRING_KICK, &vring, &[event]);
        self.say(SET_VRING_ENABLE, &state(1), &[]);
    }

    fn step(&self, step: &Step) {
        match step {
            Step::Message { code, flags, body, fds } => {
                let fds: Vec<i32> = fds.iter().take(40).map(|&fd| self.fd(fd)).collect();
                let body = body.bytes();
                let flags = 1 | u32::from(*flags) & NEED_REPLY;
                self.message(u32::from(*code) % 48, flags, body.len(), &body, &fds);
            }
            Step::Lying { code, says, body } => {
                self.message((*code).into(), 1, *says as usize, &body.bytes(), &[]);
            }
            Step::Raw(bytes) => self.send(bytes, &[]),
            Step::Hello { features, protocol } => {
                let of = |all: &[u64], nth: u8| Body::Word(all[usize::from(nth) % all.len()]);
                self.say(SET_FEATURES, &of(&FEATURES, *features), &[]);
                self.say(SET_PROTOCOL_FEATURES, &of(&PROTOCOL, *protocol), &[]);
            }
            Step::Ring { queue, size } => self.ring(*queue, *size),
            Step::Base { queue, avail, used, wraps } => {
                let place = |index: u8, wrap: u8| u32::from(index) | u32::from(wrap & 1) << 15;
                let num = place(*avail, *wraps) | place(*used, *wraps >> 1) << 16;
                self.say(SET_VRING_BASE, &Body::State { index: *queue, num }, &[]);
            }
            Step::Status { status, need_reply } => {
                let flags = 1 | if *need_reply { NEED_REPLY } else { 0 };
                match status {
                    Some(status) => {
                        self.message(SET_STATUS, flags, 8, &u64::from(*status).to_le_bytes(), &[]);
                    }
                    None => self.message(GET_STATUS, flags, 0, &[], &[]),
                }
            }
            Step::Channel(fd) => self.message(SET_BACKEND_REQ_FD, 1, 0, &[], &[self.fd(*fd)]),
            Step::AskForLog { queues, queue_size } => {
                let queues = u16::from(*queues) % 5;
                let body = Body::Log { len: 0, offset: 0, queues, queue_size: *queue_size };
                self.say(GET_INFLIGHT_FD, &body, &[]);
            }
            Step::Log { len, offset, queues, queue_size, fd } => {
                let (queues, queue_size) = (u16::from(*queues) % 5, (*queue_size).into());
                // Mostly where `LeftLog` writes.
                let offset = if offset & 3 == 0 { u64::from(*offset) } else { LOG_AT };
                let body = Body::Log { len: len.bytes(), offset, queues, queue_size };
                self.say(SET_INFLIGHT_FD, &body, &[self.fd(*fd)]);
            }
            Step::LeftLog { version, entries, heads, state } => {
                let halves = [u16::from(version & 1), (*entries).into(), heads[0], heads[1]];
                let places = [heads[2] % 16, heads[3] % 16];
                let short = |words: &[u16]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
                let log = [vec![0; 8], short(&halves), short(&places), state.to_vec()].concat();
                let _ = self.memory.write_all_at(&log, LOG_AT);
            }
            Step::Poke { at, bytes } => {
                let _ = self.memory.write_all_at(bytes, u64::from(*at));
            }
            Step::Cut { len } => {
                let _ = self.memory.set_len(u64::from(*len) % MEMORY_BYTES);
            }
        }
    }
}

/// Made once: a reactor, and a disk on it.
fn stage() -> &'static (Vec<Arc<Handle>>, Arc<dyn Bdev>) {
    static STAGE: OnceLock<(Vec<Arc<Handle>>, Arc<dyn Bdev>)> = OnceLock::new();
    STAGE.get_or_init(|| {
        let reactor = Handle::spawn(Config { claim: false, ..Config::new(0) }).unwrap();
        // Threads that share the reactor's core would wait for the scheduler most of the time.
        off_reactor_cores(&[0]);
        let disk = Malloc::new("d0", 1 << 20, 512, Hugepages::Off).unwrap();
        (vec![Arc::new(reactor)], Arc::new(disk) as Arc<dyn Bdev>)
    })
}

fuzz_target!(|steps: Vec<Step>| {
    let (reactors, bdev) = stage();
    let config = ServerConfig {
        name: "d0".into(),
        socket: "fuzz".into(),
        queues: 3,
        queue_size: 128,
        serial: String::new(),
        polled_cores: Vec::new(),
    };
    let (theirs, ours) = UnixStream::pair().unwrap();
    // Joined one by one: a scope alone ends before its threads have freed all they had.
    std::thread::scope(|scope| {
        let client = scope.spawn(move || hostile_client(theirs, &steps));
        testing::serve(&config, ours, Arc::clone(bdev), reactors).unwrap();
        client.join().unwrap();
    });
});

/// Takes all steps while the replies are read, so that neither side waits for the other.
fn hostile_client(socket: UnixStream, steps: &[Step]) {
    let client = Client::new(socket);
    let mut replies = client.socket.try_clone().unwrap();
    let reader =
        std::thread::spawn(move || while replies.read(&mut [0; 8192]).is_ok_and(|count| count > 0) {});
    steps.iter().take(MAX_STEPS).for_each(|step| client.step(step));
    let _ = client.socket.shutdown(std::net::Shutdown::Write);
    reader.join().unwrap();
}
