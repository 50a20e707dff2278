//! A server with a memory disk, and a client that can say anything.
#![allow(dead_code, reason = "each test file uses its share")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use spinblk_bdev::{Bdev, Malloc};
use spinblk_reactor::{Config, Handle, Hugepages, off_reactor_cores};
use spinblk_vhost_user::{DiskReport, RingOptions, Server, ServerConfig};

pub(crate) const DISK_BYTES: u64 = 16 << 20;

/// Tests of one file run one after the other: they count what the whole process has open, and reactors spin.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Rig {
    server: Option<Server>,
    pub(crate) socket: PathBuf,
    pub(crate) reactors: Vec<Arc<Handle>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new(queues: u16) -> Self {
        Self::with_reactors(queues, &[reactor(0)])
    }

    pub(crate) fn with_reactors(queues: u16, reactors: &[Arc<Handle>]) -> Self {
        let disk = Malloc::new("d0", DISK_BYTES, 512, Hugepages::Off).unwrap();
        Self::over(queues, Arc::new(disk), reactors)
    }

    pub(crate) fn offering(rings: RingOptions) -> Self {
        let disk = Malloc::new("d0", DISK_BYTES, 512, Hugepages::Off).unwrap();
        Self::all(rings, 2, Arc::new(disk), &[reactor(0)])
    }

    pub(crate) fn over(queues: u16, bdev: Arc<dyn Bdev>, reactors: &[Arc<Handle>]) -> Self {
        Self::all(RingOptions::default(), queues, bdev, reactors)
    }

    fn all(rings: RingOptions, queues: u16, bdev: Arc<dyn Bdev>, reactors: &[Arc<Handle>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("d0.sock");
        // A thread that shares its core with a reactor waits for the scheduler most of the time.
        let polled_cores: Vec<usize> = reactors.iter().map(|reactor| reactor.core()).collect();
        off_reactor_cores(&polled_cores);
        let config = ServerConfig {
            name: "d0".into(),
            socket: socket.clone(),
            queues,
            queue_size: 256,
            serial: "SERIAL".into(),
            polled_cores,
        };
        let server = Some(Server::start_offering(rings, config, bdev, reactors).unwrap());
        Self { server, socket, reactors: reactors.to_vec(), _folder: folder }
    }

    pub(crate) fn client(&self) -> Client {
        Client(UnixStream::connect(&self.socket).unwrap())
    }

    pub(crate) fn announce_config_change(&self) {
        self.server.as_ref().unwrap().announce_config_change();
    }

    pub(crate) fn stop(mut self) -> DiskReport {
        let report = self.server.take().unwrap().stop();
        assert!(!self.socket.exists(), "the socket is removed");
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        report
    }
}

pub(crate) fn reactor(nth: usize) -> Arc<Handle> {
    let cores = std::thread::available_parallelism().unwrap().get();
    let config = Config { claim: false, ..Config::new(nth % cores) };
    Arc::new(Handle::spawn(config).unwrap())
}

pub(crate) fn memory(bytes: u64) -> File {
    let fd: OwnedFd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(bytes).unwrap();
    file
}

/// Descriptors and mappings of this process.
pub(crate) fn footprint() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    // Anonymous memory comes and goes with the allocator's arenas; what clients share has a name.
    let named = ["memfd:guest", "virtio-ring", "spinblk-in-flight"];
    (fds, maps.lines().filter(|line| named.iter().any(|name| line.contains(name))).count())
}

/// Memory that this process has in use.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}

/// Message codes, as the protocol numbers them.
pub(crate) mod code {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const SET_CONFIG: u32 = 25;
    pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(crate) const GET_INFLIGHT_FD: u32 = 31;
    pub(crate) const SET_INFLIGHT_FD: u32 = 32;
    pub(crate) const RESET_DEVICE: u32 = 34;
    pub(crate) const SET_STATUS: u32 = 39;
    pub(crate) const GET_STATUS: u32 = 40;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

/// A client that frames messages and leaves the rest to the test.
pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    pub(crate) fn send(&self, code: u32, flags: u32, body: &[u8], fds: &[RawFd]) {
        let mut message = Vec::new();
        for word in [code, 1 | flags, body.len() as u32] {
            message.extend(word.to_le_bytes());
        }
        message.extend(body);
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        // The server may have hung up already.
        let _ = sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(&message)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
    }

    /// Sends and waits for the answer's body; `None` when the server hangs up.
    pub(crate) fn ask(&self, code: u32, body: &[u8], fds: &[RawFd]) -> Option<Vec<u8>> {
        self.send(code, 8, body, fds);
        self.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut header = [0; 12];
        (&self.0).read_exact(&mut header).ok()?;
        assert_eq!(u32::from_le_bytes(header[..4].try_into().unwrap()), code);
        let len = u32::from_le_bytes(header[8..].try_into().unwrap());
        let mut body = vec![0; len as usize];
        (&self.0).read_exact(&mut body).ok()?;
        Some(body)
    }

    /// As `ask`, for an answer that brings a descriptor.
    pub(crate) fn ask_file(&self, code: u32, body: &[u8]) -> (Vec<u8>, File) {
        self.send(code, 8, body, &[]);
        self.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut bytes, mut control) = ([0; 64], nix::cmsg_space!(RawFd));
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let got =
            recvmsg::<()>(self.0.as_raw_fd(), &mut pieces, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
                .unwrap();
        let Some(ControlMessageOwned::ScmRights(fds)) = got.cmsgs().unwrap().next() else {
            panic!("no descriptor")
        };
        let count = got.bytes;
        // SAFETY: just received, and nobody else's.
        (bytes[12..count].to_vec(), File::from(unsafe { OwnedFd::from_raw_fd(fds[0]) }))
    }

    pub(crate) fn status(&self) -> u64 {
        self.ask_u64(code::GET_STATUS, &[], &[]).unwrap()
    }

    pub(crate) fn set_status(&self, status: u64) -> u64 {
        self.ask_u64(code::SET_STATUS, &status.to_le_bytes(), &[]).unwrap()
    }

    pub(crate) fn ask_u64(&self, code: u32, body: &[u8], fds: &[RawFd]) -> Option<u64> {
        self.ask(code, body, fds).map(|body| u64::from_le_bytes(body.try_into().unwrap()))
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let _ = (&self.0).write_all(bytes);
    }

    /// Negotiates everything that is offered.
    pub(crate) fn hello(&self) {
        self.send(code::SET_OWNER, 0, &[], &[]);
        let features = self.ask_u64(code::GET_FEATURES, &[], &[]).unwrap();
        assert_ne!(features & (1 << 32), 0, "VERSION_1");
        assert_ne!(features & (1 << 30), 0, "PROTOCOL_FEATURES");
        assert_eq!(features & (1 << 33), 0, "no ACCESS_PLATFORM");
        // The guest in these tests knows split rings only.
        let features = features & !(1 << 34);
        self.send(code::SET_FEATURES, 0, &features.to_le_bytes(), &[]);
        let protocol = self.ask_u64(code::GET_PROTOCOL_FEATURES, &[], &[]).unwrap();
        self.send(code::SET_PROTOCOL_FEATURES, 0, &protocol.to_le_bytes(), &[]);
    }

    /// Whether the server has hung up on us.
    pub(crate) fn is_dead(&self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bytes = [0; 4096];
        loop {
            match (&self.0).read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

pub(crate) fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The body of GET_INFLIGHT_FD and SET_INFLIGHT_FD, padded as clients do.
pub(crate) fn in_flight(size: u64, offset: u64, queues: u16, queue_size: u16) -> Vec<u8> {
    let mut body = words64(&[size, offset]);
    body.extend(queues.to_le_bytes());
    body.extend(queue_size.to_le_bytes());
    body.extend([0; 4]);
    body
}

/// The body of ADD_MEM_REG and REM_MEM_REG.
pub(crate) fn region(guest: u64, len: u64, user: u64, offset: u64) -> Vec<u8> {
    words64(&[0, guest, len, user, offset])
}

/// A guest with one ring in shared memory, which it reads and writes through the file.
///
/// ```text
///   0x0 descriptors   0x1000 avail   0x2000 used   0x3000 header   0x4000 data   0x5000 status
/// ```
pub(crate) struct Guest {
    pub(crate) file: File,
    pub(crate) call: EventFd,
    avail: u16,
}

pub(crate) const GUEST: u64 = 0x10_0000;
pub(crate) const USER: u64 = 0x7000_0000_0000;
pub(crate) const MEMORY_BYTES: u64 = 1 << 20;
pub(crate) const SIZE: u16 = 8;

impl Guest {
    pub(crate) fn new() -> Self {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let call = EventFd::from_value_and_flags(0, flags).unwrap();
        let guest = Self { file: memory(MEMORY_BYTES), call, avail: 0 };
        // One chain: header, 512 bytes to read, status.
        for (i, (at, len, flags)) in [(0x3000, 16, 1u16), (0x4000, 512, 3), (0x5000, 1, 2)].iter().enumerate()
        {
            let mut desc = (GUEST + at).to_le_bytes().to_vec();
            desc.extend(u32::to_le_bytes(*len));
            desc.extend(flags.to_le_bytes());
            desc.extend((i as u16 + 1).to_le_bytes());
            guest.write(i as u64 * 16, &desc);
        }
        guest
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        // Past the end of a file that was cut, this makes it longer again, which is as hostile as it gets.
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn word(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, at).map_or(0, |()| u16::from_le_bytes(bytes))
    }

    /// Shares the memory and starts queue `index`.
    pub(crate) fn start(&self, client: &Client, index: u32) -> bool {
        let add = client.ask_u64(
            code::ADD_MEM_REG,
            &region(GUEST, MEMORY_BYTES, USER, 0),
            &[self.file.as_raw_fd()],
        );
        add == Some(0) && self.start_ring(client, index, [USER, USER + 0x1000, USER + 0x2000])
    }

    pub(crate) fn start_ring(&self, client: &Client, index: u32, at: [u64; 3]) -> bool {
        let kick = EventFd::new().unwrap();
        let mut addresses = words32(&[index, 0]);
        addresses.extend(words64(&[at[0], at[2], at[1], 0]));
        let vring = u64::from(index).to_le_bytes();
        client.ask_u64(code::SET_VRING_NUM, &words32(&[index, SIZE.into()]), &[]) == Some(0)
            && client.ask_u64(code::SET_VRING_BASE, &words32(&[index, self.avail.into()]), &[]) == Some(0)
            && client.ask_u64(code::SET_VRING_ADDR, &addresses, &[]) == Some(0)
            && client.ask_u64(code::SET_VRING_CALL, &vring, &[self.call.as_raw_fd()]) == Some(0)
            && client.ask_u64(code::SET_VRING_KICK, &vring, &[kick.as_raw_fd()]) == Some(0)
            && client.ask_u64(code::SET_VRING_ENABLE, &words32(&[index, 1]), &[]) == Some(0)
    }

    /// One read request.
    pub(crate) fn submit(&mut self) {
        self.write(0x1000 + 4 + 2 * u64::from(self.avail % SIZE), &[0, 0]);
        self.avail = self.avail.wrapping_add(1);
        self.write(0x5000, &[0xff]);
        // used_event: an interrupt for the next used entry.
        self.write(0x1000 + 4 + 2 * u64::from(SIZE), &self.avail.wrapping_sub(1).to_le_bytes());
        self.write(0x1002, &self.avail.to_le_bytes());
    }

    /// Takes the last request back, which nobody has seen.
    pub(crate) fn take_back(&mut self) {
        self.avail = self.avail.wrapping_sub(1);
        self.write(0x1002, &self.avail.to_le_bytes());
    }

    /// Makes the request one of `kind` at `sector`, with `payload` to be read by the device.
    pub(crate) fn ask(&self, kind: u32, sector: u64, payload: &[u8]) {
        self.write(0x3000, &kind.to_le_bytes());
        self.write(0x3008, &sector.to_le_bytes());
        self.write(0x4000, payload);
        self.write(16 + 8, &(payload.len() as u32).to_le_bytes());
        self.write(16 + 12, &1u16.to_le_bytes());
    }

    /// The status byte of the last request.
    pub(crate) fn answer(&self) -> u8 {
        self.word(0x5000) as u8
    }

    pub(crate) fn is_done(&self) -> bool {
        self.word(0x2002) == self.avail
    }

    pub(crate) fn avail(&self) -> u16 {
        self.avail
    }

    /// Requests one after the other, `count` of them; false when one is not answered in time.
    pub(crate) fn work(&mut self, count: usize) -> bool {
        (0..count).all(|_| {
            self.submit();
            self.wait() && self.answer() == 0
        })
    }
    /// Waits until everything submitted is done; false when it is not in time.
    pub(crate) fn wait(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.is_done() {
            if Instant::now() > deadline {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }
}
