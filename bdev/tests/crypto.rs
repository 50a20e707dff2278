//! What is particular to encryption: the bytes on the child, memory that the guest changes, buffers that run out,
//! discards, and keys.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aes::Aes256;
use aes::cipher::{KeyInit, generic_array::GenericArray};
use common::{ARENA_BYTES, Bench, Request, disk_dir, file_in, memory_dir, pattern};
use spinblk_bdev::{
    Aio, AioOptions, Bdev, Channel, Completion, Crypto, CryptoOptions, Direct, Error, Info, Io, IoError,
    IoResult, Malloc, Op, XtsKey,
};
use spinblk_reactor::{Hugepages, Ring};
use tempfile::NamedTempFile;
use xts_mode::Xts128;

const MIB: u64 = 1 << 20;
/// Writes that a channel has at its child together.
const BUFFERS: usize = 64;
/// Bytes that go to the child together.
const PIECE_BYTES: usize = 64 << 10;

fn key_bytes() -> Vec<u8> {
    pattern(99, 64)
}

fn key_file(content: &[u8], mode: u32) -> NamedTempFile {
    let file = file_in(&disk_dir(), 0);
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::write(file.path(), content).unwrap();
    file
}

fn key() -> XtsKey {
    XtsKey::from_file("c0", key_file(&key_bytes(), 0o600).path()).unwrap()
}

fn crypto(sector_bytes: u32, child: Arc<dyn Bdev>) -> Crypto {
    Crypto::new("c0", key(), CryptoOptions { sector_bytes, discard: false }, child).unwrap()
}

fn malloc() -> Arc<dyn Bdev> {
    Arc::new(Malloc::new("m0", MIB, 512, Hugepages::Off).unwrap())
}

/// What another implementation makes of `plain` at `offset_bytes`.
fn encrypted(sector_bytes: usize, offset_bytes: u64, plain: &[u8]) -> Vec<u8> {
    let key = key_bytes();
    let cipher = |half: &[u8]| Aes256::new(GenericArray::from_slice(half));
    let xts = Xts128::new(cipher(&key[..32]), cipher(&key[32..]));
    let mut data = plain.to_vec();
    for (index, sector) in data.chunks_mut(sector_bytes).enumerate() {
        let unit = (offset_bytes + (index * sector_bytes) as u64) / 512;
        xts.encrypt_sector(sector, u128::from(unit).to_le_bytes());
    }
    data
}

/// Requests of `len_bytes` whose memory is cut in every way that matters: not, at sectors, inside them, and with
/// pieces that are empty or less than a cipher block.
fn shapes(op: Op, offset_bytes: u64, len_bytes: usize) -> Vec<Request> {
    let cuts: [(usize, &[usize]); 6] =
        [(0, &[]), (3, &[]), (0, &[4096]), (8, &[512, 0, 5]), (1, &[1, 511, 4095, 16]), (0, &[5000, 100, 7])];
    let shape = |(skew, first): &(usize, &[usize])| {
        let mut lens = first.to_vec();
        lens.push(len_bytes - first.iter().sum::<usize>());
        Request { lens, skew: *skew, ..Request::new(op, offset_bytes, len_bytes) }
    };
    cuts.iter().map(shape).collect()
}

#[test]
fn the_child_holds_what_dm_crypt_would_put_there() {
    for sector_bytes in [512, 4096] {
        let child = malloc();
        let bdev = crypto(sector_bytes, Arc::clone(&child));
        let (mut above, mut below) = (Bench::new(&bdev, 1), Bench::new(&*child, 1));
        let offset_bytes = 40 * 4096;
        for len_bytes in [8192, PIECE_BYTES, PIECE_BYTES + 4096, 3 * PIECE_BYTES] {
            for (seed, write) in shapes(Op::Write, offset_bytes, len_bytes).iter().enumerate() {
                let plain = pattern(seed as u64, len_bytes);
                above.fill(0, write.skew, &plain);
                above.run(write).unwrap();
                assert!(above.read_back(0, write.skew, len_bytes) == plain, "source changed: {write:?}");
                let want = encrypted(sector_bytes as usize, offset_bytes, &plain);
                assert!(below.read(offset_bytes, len_bytes).unwrap() == want, "{sector_bytes} {write:?}");
                for read in shapes(Op::Read, offset_bytes, len_bytes) {
                    above.fill(0, 0, &vec![0xEE; len_bytes + 64]);
                    above.run(&read).unwrap();
                    assert!(above.read_back(0, read.skew, len_bytes) == plain, "{sector_bytes} {read:?}");
                }
            }
        }
    }
}

#[test]
fn tweaks_count_on_beyond_32_bits() {
    const FAR: u64 = (1 << 41) - 4096;
    for sector_bytes in [512, 4096] {
        let file = file_in(&memory_dir(), FAR + MIB);
        let options = AioOptions { direct: Direct::Off, block_size: Some(512), ..AioOptions::default() };
        let child = Aio::open("f0", file.path(), options).unwrap();
        let bdev = crypto(sector_bytes, Arc::new(child));
        let mut bench = Bench::new(&bdev, 1);
        let plain = pattern(1, 16384);
        // Sectors on both sides of number 2^32.
        bench.write(FAR, &plain).unwrap();
        let mut below = vec![0; plain.len()];
        file.as_file().read_exact_at(&mut below, FAR).unwrap();
        assert!(below == encrypted(sector_bytes as usize, FAR, &plain));
        assert!(bench.read(FAR, plain.len()).unwrap() == plain);
    }
}

#[test]
fn files_hold_it_too() {
    for (dir, direct) in [(disk_dir(), Direct::On), (disk_dir(), Direct::Off)] {
        let file = file_in(&dir, MIB);
        let options = AioOptions { direct, ..AioOptions::default() };
        let child = Aio::open("f0", file.path(), options).unwrap();
        let bdev = crypto(4096, Arc::new(child));
        let mut bench = Bench::new(&bdev, 1);
        for (seed, write) in shapes(Op::Write, 8192, 3 * PIECE_BYTES).iter().enumerate() {
            let plain = pattern(seed as u64, 3 * PIECE_BYTES);
            bench.fill(0, write.skew, &plain);
            bench.run(write).unwrap();
            bench.run(&Request::new(Op::Flush, 0, 0)).unwrap();
            let mut below = vec![0; plain.len()];
            file.as_file().read_exact_at(&mut below, 8192).unwrap();
            assert!(below == encrypted(4096, 8192, &plain), "{direct:?} {write:?}");
            for read in shapes(Op::Read, 8192, plain.len()) {
                bench.run(&read).unwrap();
                assert!(bench.read_back(0, read.skew, plain.len()) == plain, "{direct:?} {read:?}");
            }
        }
    }
}

/// What a [`Held`] child is told and tells.
#[derive(Default)]
struct Watch {
    /// Whether everything fails, after it was done.
    fail: AtomicBool,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    /// I/Os that lay in a registered buffer, in one piece.
    fixed: AtomicUsize,
}

/// A child that does nothing before it is polled, and then one thing, the oldest.
struct Held {
    child: Arc<dyn Bdev>,
    watch: Arc<Watch>,
}

struct HeldChannel {
    child: Box<dyn Channel>,
    watch: Arc<Watch>,
    queue: VecDeque<Io>,
}

impl Bdev for Held {
    fn info(&self) -> &Info {
        self.child.info()
    }

    fn kind(&self) -> &'static str {
        "held"
    }

    fn open(&self, ring: &mut Ring, depth: usize) -> Result<Box<dyn Channel>, Error> {
        let child = self.child.open(ring, depth)?;
        Ok(Box::new(HeldChannel { child, watch: Arc::clone(&self.watch), queue: VecDeque::new() }))
    }
}

impl Channel for HeldChannel {
    fn submit(&mut self, io: &Io, _: &mut Ring) -> Option<IoResult> {
        assert!(self.queue.iter().all(|other| other.tag != io.tag), "tag {} is in flight", io.tag);
        self.queue.push_back(*io);
        let fixed = io.buf().is_some() && io.segments().len() == 1;
        self.watch.fixed.fetch_add(usize::from(fixed), Ordering::Relaxed);
        self.watch.in_flight.store(self.queue.len(), Ordering::Relaxed);
        self.watch.most_in_flight.fetch_max(self.queue.len(), Ordering::Relaxed);
        None
    }

    fn poll(&mut self, ring: &mut Ring, done: &mut Vec<Completion>) {
        let Some(io) = self.queue.pop_front() else { return };
        self.watch.in_flight.store(self.queue.len(), Ordering::Relaxed);
        let mut result = self.child.submit(&io, ring).unwrap();
        if self.watch.fail.load(Ordering::Relaxed) {
            result = Err(IoError::Errno(libc::EIO));
        }
        done.push(Completion { tag: io.tag, result });
    }

    fn close(&mut self, ring: &mut Ring) {
        self.child.close(ring);
    }
}

fn held(child: Arc<dyn Bdev>) -> (Arc<dyn Bdev>, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    (Arc::new(Held { child, watch: Arc::clone(&watch) }), watch)
}

#[test]
fn a_guest_that_changes_its_memory_cannot_change_what_is_written() {
    let child = malloc();
    let (bdev, _) = held(Arc::clone(&child));
    let bdev = crypto(512, bdev);
    let mut bench = Bench::new(&bdev, 1);
    let plain = pattern(1, PIECE_BYTES);
    bench.fill(0, 0, &plain);
    bench.submit(0, &Request::new(Op::Write, 0, plain.len()));
    bench.fill(0, 0, &pattern(2, PIECE_BYTES));
    assert_eq!(bench.wait(1)[0].result, Ok(()));
    assert!(Bench::new(&*child, 1).read(0, plain.len()).unwrap() == encrypted(512, 0, &plain));
}

#[test]
fn the_child_is_given_registered_buffers_where_there_are_any() {
    let (bdev, watch) = held(malloc());
    let bdev = crypto(512, bdev);
    let mut bench = Bench::new(&bdev, 1);
    let mut fixed = |request: &Request| {
        let before = watch.fixed.load(Ordering::Relaxed);
        bench.run(request).unwrap();
        (watch.fixed.load(Ordering::Relaxed) - before, bench.has_buffer())
    };
    for (writes, reads) in
        shapes(Op::Write, 0, 3 * PIECE_BYTES).iter().zip(shapes(Op::Read, 0, 3 * PIECE_BYTES))
    {
        // Writes come out of the pool, whatever the guest's memory is like; reads go to that.
        let (pieces, has_buffer) = fixed(writes);
        assert_eq!(pieces, if has_buffer { 3 } else { 0 }, "{writes:?}");
        let in_one_piece = reads.lens.len() == 1;
        let (whole, has_buffer) = fixed(&Request { fixed: true, ..reads });
        assert_eq!(whole == 1, has_buffer && in_one_piece);
    }
}

#[test]
fn writes_that_find_no_buffer_wait_their_turn() {
    const DEPTH: usize = BUFFERS + 40;
    const LEN: usize = 8192;
    let child = Arc::new(Malloc::new("m0", (DEPTH * LEN) as u64, 512, Hugepages::Off).unwrap());
    let (bdev, watch) = held(child);
    let bdev = crypto(4096, bdev);
    let mut bench = Bench::new(&bdev, DEPTH);
    for tag in 0..DEPTH as u32 {
        bench.fill(tag, 1, &pattern(tag.into(), LEN));
        bench.submit(tag, &Request { skew: 1, ..Request::new(Op::Write, u64::from(tag) * LEN as u64, LEN) });
    }
    assert_eq!(watch.in_flight.load(Ordering::Relaxed), BUFFERS);
    let done = bench.wait(DEPTH);
    assert_eq!(done.iter().map(|c| c.tag).collect::<Vec<_>>(), (0..DEPTH as u32).collect::<Vec<_>>());
    assert!(done.iter().all(|c| c.result.is_ok()));
    assert_eq!(watch.most_in_flight.load(Ordering::Relaxed), BUFFERS);
    // Reads need no buffer: all of them are at the child together.
    for tag in 0..DEPTH as u32 {
        bench.submit(tag, &Request::new(Op::Read, u64::from(tag) * LEN as u64, LEN));
    }
    assert_eq!(watch.in_flight.load(Ordering::Relaxed), DEPTH);
    assert!(bench.wait(DEPTH).iter().all(|c| c.result.is_ok()));
    for tag in 0..DEPTH as u32 {
        assert!(bench.read_back(tag, 0, LEN) == pattern(tag.into(), LEN), "tag {tag}");
    }
}

#[test]
fn more_long_writes_than_buffers_reach_a_file() {
    const DEPTH: usize = BUFFERS + 20;
    let file = file_in(&disk_dir(), (DEPTH * ARENA_BYTES) as u64);
    let child = Aio::open("f0", file.path(), AioOptions::default()).unwrap();
    let bdev = crypto(4096, Arc::new(child));
    let mut bench = Bench::new(&bdev, DEPTH);
    for tag in 0..DEPTH as u32 {
        bench.fill(tag, 0, &pattern(tag.into(), ARENA_BYTES));
        bench.submit(tag, &Request::new(Op::Write, u64::from(tag) * ARENA_BYTES as u64, ARENA_BYTES));
    }
    assert!(bench.wait(DEPTH).iter().all(|c| c.result.is_ok()));
    for tag in 0..DEPTH as u32 {
        let offset_bytes = u64::from(tag) * ARENA_BYTES as u64;
        assert!(bench.read(offset_bytes, ARENA_BYTES).unwrap() == pattern(tag.into(), ARENA_BYTES), "{tag}");
    }
}

#[test]
fn failures_of_the_child_are_its_own_and_keep_no_buffer() {
    let child = malloc();
    let (bdev, watch) = held(Arc::clone(&child));
    let bdev = crypto(512, bdev);
    let mut bench = Bench::new(&bdev, BUFFERS + 8);
    let plain = pattern(1, 4096);
    bench.write(0, &plain).unwrap();
    watch.fail.store(true, Ordering::Relaxed);
    let failed = Err(IoError::Errno(libc::EIO));
    // A read that failed is left as the child left it.
    bench.submit(0, &Request::new(Op::Read, 0, 4096));
    assert_eq!(bench.wait(1)[0].result, failed);
    assert!(bench.read_back(0, 0, 4096) == encrypted(512, 0, &plain));
    // Of a write that failed no further piece is written; each gives its buffer to the next.
    let (kept, zeroes) = (encrypted(512, 0, &plain), vec![0; ARENA_BYTES]);
    for tag in 0..(BUFFERS + 8) as u32 {
        bench.fill(tag, 0, &zeroes);
        bench.submit(tag, &Request::new(Op::Write, MIB / 2, ARENA_BYTES));
    }
    assert!(bench.wait(BUFFERS + 8).iter().all(|c| c.result == failed));
    let mut below = Bench::new(&*child, 1);
    assert!(below.read(0, 4096).unwrap() == kept);
    assert!(below.read(MIB / 2 + PIECE_BYTES as u64, PIECE_BYTES).unwrap() == zeroes[..PIECE_BYTES]);
    watch.fail.store(false, Ordering::Relaxed);
    for tag in 0..(BUFFERS + 8) as u32 {
        bench.submit(tag, &Request::new(Op::Write, MIB / 2, ARENA_BYTES));
    }
    assert!(bench.wait(BUFFERS + 8).iter().all(|c| c.result.is_ok()));
    assert!(bench.read(MIB / 2, ARENA_BYTES).unwrap() == zeroes);
}

#[test]
fn discards_pass_only_where_they_may_and_zeroes_never() {
    for discard in [false, true] {
        let child = malloc();
        let options = CryptoOptions { sector_bytes: 512, discard };
        let bdev = Crypto::new("c0", key(), options, Arc::clone(&child)).unwrap();
        let caps = bdev.info().caps;
        assert_eq!((caps.flush, caps.discard, caps.write_zeroes), (true, discard, false));
        let mut bench = Bench::new(&bdev, 1);
        bench.write(0, &pattern(1, 8192)).unwrap();
        let result = bench.run(&Request::new(Op::Discard, 0, 4096));
        assert_eq!(result, if discard { Ok(()) } else { Err(IoError::Unsupported) });
        for unmap in [false, true] {
            let result = bench.run(&Request::new(Op::WriteZeroes { unmap }, 4096, 4096));
            assert_eq!(result, Err(IoError::Unsupported));
        }
        assert_eq!(bench.run(&Request::new(Op::Flush, 0, 0)), Ok(()));
        assert_eq!(Bench::new(&*child, 1).read(0, 4096).unwrap() == [0; 4096], discard);
        assert!(bench.read(4096, 4096).unwrap() == pattern(1, 8192)[4096..]);
    }
}

#[test]
fn it_is_as_large_as_whole_sectors_and_as_read_only_as_its_child() {
    let child = Malloc::new("m0", 10 * 512, 512, Hugepages::Off).unwrap().with_read_only(true);
    let bdev = crypto(4096, Arc::new(child));
    let info = bdev.info();
    assert_eq!((info.name.as_str(), bdev.kind(), bdev.children().len()), ("c0", "crypto", 1));
    assert_eq!((info.block_size, info.physical_block_size, info.blocks()), (4096, 4096, 1));
    assert!(info.read_only);
    let mut bench = Bench::new(&bdev, 1);
    assert_eq!(bench.write(0, &[0; 4096]), Err(IoError::ReadOnly));
    assert_eq!(bench.read(4096, 4096), Err(IoError::OutOfRange));
    assert_eq!(bench.read(512, 4096), Err(IoError::Misaligned));
    assert_eq!(bench.run(&Request::new(Op::Read, 0, 0)), Ok(()));
}

#[test]
fn sectors_that_cannot_be_are_refused_with_the_fix() {
    let refused = |sector_bytes, child: Arc<dyn Bdev>| {
        let options = CryptoOptions { sector_bytes, discard: false };
        Crypto::new("c0", key(), options, child).err().unwrap().to_string()
    };
    for bad in [0, 256, 1024, 8192] {
        let text = refused(bad, malloc());
        assert!(text.contains(&format!("c0: sector_size {bad}: allowed are 512 and 4096")), "{text}");
    }
    let text = refused(512, Arc::new(Malloc::new("m0", MIB, 4096, Hugepages::Off).unwrap()));
    assert!(text.contains("c0: child m0: ") && text.contains("set sector_size to 4096"), "{text}");
    let text = refused(4096, Arc::new(Malloc::new("m0", 2048, 512, Hugepages::Off).unwrap()));
    assert!(text.contains("less than one block of 4096"), "{text}");
}

/// Why a key file is refused. Whatever it is, nothing of its contents is said.
fn refusal(path: &Path, content: &[u8]) -> String {
    let text = XtsKey::from_file("c0", path).unwrap_err().to_string();
    assert!(text.starts_with(&format!("bdev c0: key {}: ", path.display())), "{text}");
    if let Ok(content) = std::str::from_utf8(content) {
        assert!(content.len() < 8 || !text.contains(&content[..8]), "{text}");
    }
    text
}

#[test]
fn key_files_of_other_lengths_are_refused_with_the_reason() {
    let hex: String = key_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let raw = key_bytes();
    let mut newline = raw.clone();
    newline.push(b'\n');
    let short = &hex.as_bytes()[..64];
    let twice = hex[..64].repeat(2);
    let cases: [(&[u8], &str); 12] = [
        (b"", "it is empty"),
        (&raw[..32], "one for AES-128-XTS"),
        (&[short, b"\n"].concat(), "one for AES-128-XTS"),
        (&newline, "take the newline off with `truncate -s 64"),
        (&raw[..63], "63 bytes"),
        (&hex.as_bytes()[..127], "127 hex digits"),
        (&[hex.as_bytes(), b"\n\n"].concat(), "130 bytes"),
        (&[hex.as_bytes(), b"0"].concat(), "129 hex digits"),
        (&[b"x", &hex.as_bytes()[1..]].concat(), "not all hex digits"),
        (&[7; 5000], "4096 bytes or more"),
        (&[7; 64], "two halves are equal"),
        (twice.as_bytes(), "two halves are equal"),
    ];
    for (content, why) in cases {
        let file = key_file(content, 0o600);
        let text = refusal(file.path(), content);
        assert!(text.contains(why), "{why}: {text}");
    }
    for content in [&raw[..], hex.as_bytes(), &[hex.to_uppercase().as_bytes(), b"\n"].concat()] {
        let key = XtsKey::from_file("c0", key_file(content, 0o400).path()).unwrap();
        assert_eq!(format!("{key:?}"), "XtsKey(..)");
        let options = CryptoOptions { sector_bytes: 512, discard: false };
        let child = malloc();
        Bench::new(&Crypto::new("c0", key, options, Arc::clone(&child)).unwrap(), 1)
            .write(512, &[1; 512])
            .unwrap();
        assert!(Bench::new(&*child, 1).read(512, 512).unwrap() == encrypted(512, 512, &[1; 512]));
    }
}

#[test]
fn key_files_that_others_can_reach_are_refused_with_the_fix() {
    for mode in [0o604, 0o640, 0o660, 0o601, 0o644] {
        let file = key_file(&key_bytes(), mode);
        let text = refusal(file.path(), &key_bytes());
        assert!(text.contains(&format!("mode {mode:04o}")), "{text}");
        assert!(text.contains(&format!("chmod 600 {}", file.path().display())), "{text}");
    }
    if nix::unistd::geteuid().is_root() {
        let file = key_file(&key_bytes(), 0o600);
        chown(file.path(), Some(12_345), None).unwrap();
        let text = refusal(file.path(), &key_bytes());
        assert!(text.contains("belongs to user 12345") && text.contains("chown 0 "), "{text}");
    }
}

#[test]
fn what_is_no_key_file_is_refused() {
    let dir = tempfile::tempdir_in(disk_dir()).unwrap();
    assert!(refusal(dir.path(), b"").contains("not a regular file"));
    assert!(refusal(Path::new("/dev/zero"), b"").contains("not a regular file"));
    assert!(refusal(&dir.path().join("missing"), b"").contains("cannot open it"));
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refusal(&fifo, b"").contains("not a regular file"));
    // A link is followed: what it leads to counts.
    let (link, file) = (dir.path().join("link"), key_file(&key_bytes(), 0o600));
    std::os::unix::fs::symlink(file.path(), &link).unwrap();
    XtsKey::from_file("c0", &link).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refusal(&link, &key_bytes()).contains("mode 0640"));
}

#[test]
fn credentials_go_by_plain_names() {
    let text = XtsKey::from_credential("c0", "../key").unwrap_err().to_string();
    assert!(text.contains("c0: key credential ../key: ") && text.contains("plain file name"), "{text}");
}
