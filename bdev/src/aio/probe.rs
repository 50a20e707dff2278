//! The questions put to the kernel about a file: its geometry, what O_DIRECT asks for, what fallocate and discard do.
//! Runs once when a disk is opened; leaves contents, size and allocation as they were.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use io_uring::IoUring;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use spinblk_reactor::{Hugepages, Memory, RingFile, on_file, opcode, squeue};

/// The block layer's discard through io_uring, `_IO(0x12, 0)`. Start and length travel in the command.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

/// How far beyond the end of a file its fallocate is tried out: far enough that no rounding reaches its data.
const PROBE_GAP_BYTES: u64 = 1 << 20;

/// What O_DIRECT asks of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Of the address of each piece of memory; a power of two.
    pub(super) mem_bytes: u32,
    /// Of the offset, and of the length of each piece; a power of two up to 4096.
    pub(super) io_bytes: u32,
}

/// A block device's measures.
pub(super) struct Geometry {
    pub(super) size_bytes: u64,
    pub(super) logical_block_bytes: u32,
    pub(super) physical_block_bytes: u32,
    /// Opens for writing all the same; only the writes fail.
    pub(super) write_protected: bool,
}

/// What a target proved that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Able {
    pub(super) discard_command: bool,
    pub(super) discard_by_punching: bool,
    pub(super) punch_hole: bool,
    pub(super) zero_range: bool,
}

mod ioctl {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_read_bad!(blksszget, libc::BLKSSZGET, libc::c_int);
    nix::ioctl_read_bad!(blkpbszget, libc::BLKPBSZGET, libc::c_uint);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), libc::c_int);
}

/// Reads a block device's geometry.
pub(super) fn geometry(device: &File) -> io::Result<Geometry> {
    let (mut size_bytes, mut logical, mut physical, mut protected) = (0u64, 0, 0, 0);
    // SAFETY: each ioctl writes one value of its type into a variable that outlives the call. BLKGETSIZE64 writes 64
    // bits whatever its number says.
    unsafe {
        ioctl::blkgetsize64(device.as_raw_fd(), (&raw mut size_bytes).cast())?;
        ioctl::blksszget(device.as_raw_fd(), &raw mut logical)?;
        ioctl::blkpbszget(device.as_raw_fd(), &raw mut physical)?;
        ioctl::blkroget(device.as_raw_fd(), &raw mut protected)?;
    }
    let logical_block_bytes = u32::try_from(logical).unwrap_or(512);
    let write_protected = protected != 0;
    Ok(Geometry { size_bytes, logical_block_bytes, physical_block_bytes: physical, write_protected })
}

/// Sets the file's status flags (O_DIRECT or nothing).
pub(super) fn set_status_flags(file: &File, flags: i32) -> io::Result<()> {
    // File::open sets O_LARGEFILE where it means something; F_SETFL leaves it and the access mode alone.
    fcntl(file, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags)))?;
    Ok(())
}

/// Sets O_DIRECT and finds what it asks for. `None` (with O_DIRECT perhaps still set) where the file has none.
/// `logical` is a block device's logical block size, which is what the block layer asks for.
pub(super) fn direct_alignment(file: &File, logical: Option<u32>) -> io::Result<Option<Alignment>> {
    match set_status_flags(file, libc::O_DIRECT) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
        Err(e) => return Err(e),
    }
    let found = match (stated_alignment(file), logical) {
        (Some(stated), _) => stated,
        (None, Some(bytes)) => Some(Alignment { mem_bytes: bytes, io_bytes: bytes }),
        (None, None) => tried_alignment(file)?,
    };
    let usable = |align: &Alignment| {
        let memory_fits = align.mem_bytes.is_power_of_two() && align.mem_bytes <= 4096;
        memory_fits && align.io_bytes.is_power_of_two() && align.io_bytes <= 4096
    };
    Ok(found.filter(usable))
}

/// What statx says (Linux 6.1, not every file system): `Some(None)` is "no O_DIRECT on this file".
fn stated_alignment(file: &File) -> Option<Option<Alignment>> {
    // SAFETY: statx is plain integers, for which zeroes are valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a valid empty C string, which with AT_EMPTY_PATH means the descriptor itself, and `stat` is
    // a writable statx.
    let done = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut stat)
    };
    if done != 0 || stat.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    let align = Alignment { mem_bytes: stat.stx_dio_mem_align, io_bytes: stat.stx_dio_offset_align };
    Some((align.mem_bytes > 0 && align.io_bytes > 0).then_some(align))
}

/// Tries reads of growing alignment until one is not refused.
fn tried_alignment(file: &File) -> io::Result<Option<Alignment>> {
    let memory = Memory::new(16 << 10, Hugepages::Off, "O_DIRECT probe").map_err(io::Error::other)?;
    // SAFETY: `memory` is mapped, zeroed, as long as it says, and this function's alone.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.len_bytes()) };
    for align in [512, 1024, 2048, 4096] {
        // The slice's start is aligned to `align` and to nothing more, up to 4096; its end sets the length.
        match file.read_at(&mut bytes[align..2 * align], 0) {
            Ok(_) => return Ok(Some(Alignment { mem_bytes: align as u32, io_bytes: align as u32 })),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Tries a regular file's fallocate on a block beyond its end.
pub(super) fn file_abilities(file: &File, size_bytes: u64) -> io::Result<Able> {
    let before = file.metadata()?;
    let block_bytes = before.blksize().max(4096);
    let start = size_bytes.next_multiple_of(PROBE_GAP_BYTES) + PROBE_GAP_BYTES;
    let (Ok(start), Ok(len)) = (i64::try_from(start), i64::try_from(block_bytes)) else {
        return Ok(Able::default());
    };
    let works = |mode: FallocateFlags| match fallocate(file, mode | keep_size(), start, len) {
        // A full disk knows the operation; it has no room to try it on.
        Ok(()) | Err(nix::Error::ENOSPC | nix::Error::EDQUOT) => true,
        Err(_) => false,
    };
    let zero_range = works(FallocateFlags::FALLOC_FL_ZERO_RANGE);
    // Also takes away what ZERO_RANGE has allocated, on file systems that punch beyond the end.
    let punch_hole = works(FallocateFlags::FALLOC_FL_PUNCH_HOLE);
    let now = file.metadata()?;
    // A file that was made longer meanwhile must keep what it got.
    if zero_range && now.blocks() > before.blocks() && now.len() == size_bytes {
        // Truncating to the same size drops blocks beyond the end, on ext4 too, which does not punch there.
        file.set_len(size_bytes)?;
    }
    Ok(Able { discard_command: false, discard_by_punching: punch_hole, punch_hole, zero_range })
}

fn keep_size() -> FallocateFlags {
    FallocateFlags::FALLOC_FL_KEEP_SIZE
}

/// Asks the block layer about device number `device`: its queue limits, and whether it takes the discard command.
pub(super) fn device_abilities(file: &File, device: u64) -> Able {
    let limit = |name: &str| queue_limit(device, name).unwrap_or(0) > 0;
    let (discards, zeroes) = (limit("discard_max_bytes"), limit("write_zeroes_max_bytes"));
    // Punching asks the device to zero and to unmap in one, and is refused where it cannot zero.
    Able {
        discard_command: discards && takes_discard_command(file).unwrap_or(false),
        discard_by_punching: discards && zeroes,
        punch_hole: zeroes,
        zero_range: zeroes,
    }
}

/// Whether block device number `device` has queues that are polled instead of raising interrupts.
pub(super) fn has_poll_queues(device: u64) -> bool {
    queue_limit(device, "io_poll") == Some(1)
}

fn queue_limit(device: u64, name: &str) -> Option<u64> {
    let numbers = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let sysfs = PathBuf::from("/sys/dev/block").join(numbers);
    // A partition's limits are those of the disk above it.
    let text = std::fs::read_to_string(sysfs.join("queue").join(name))
        .or_else(|_| std::fs::read_to_string(sysfs.join("../queue").join(name)))
        .ok()?;
    text.trim().parse().ok()
}

/// Sends a discard of no bytes, through a ring of its own: a kernel that knows the command calls that invalid, one that
/// does not calls it unsupported.
fn takes_discard_command(file: &File) -> io::Result<bool> {
    let mut ring = IoUring::new(1)?;
    let entry = discard_command(RingFile::Plain(file.as_raw_fd()), 0, 0);
    // SAFETY: the command names no memory, and the file outlives the wait below.
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(ring.completion().next().is_some_and(|cqe| cqe.result() == -libc::EINVAL))
}

/// Builds the discard command.
pub(super) fn discard_command(file: RingFile, offset_bytes: u64, len_bytes: u64) -> squeue::Entry {
    let mut cmd = [0; 16];
    cmd[..8].copy_from_slice(&len_bytes.to_ne_bytes());
    on_file!(file, |f| {
        opcode::UringCmd16::new(f, BLOCK_URING_CMD_DISCARD).addr(Some(offset_bytes)).cmd(cmd).build()
    })
}
