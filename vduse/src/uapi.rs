//! `linux/vduse.h` in Rust: the structures and ioctls of API version 0, and what version 1 added.
//!
//! Layouts are checked against the C header at compile time and ioctl numbers in a test. Unions are kept as the plain
//! words they overlay ([`VqState`], the message bodies in `message.rs`), so every bit pattern is a valid value.
//! An [`Ioctl`] ties a request number to its argument type; outside this module a call is safe.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::ioctl::ioctl_num_type;
use nix::{request_code_none, request_code_read, request_code_readwrite, request_code_write};
use spinblk_virtio::{RingKind, RingState};

/// Bytes of a device name, NUL included.
pub(crate) const NAME_MAX_BYTES: usize = 256;
/// Bytes of configuration space that we hand over at most. The kernel's limit is one page, which is never smaller.
pub(crate) const CONFIG_MAX_BYTES: usize = 4096;
/// The newest API version that this crate speaks.
pub(crate) const API_VERSION_MAX: u64 = 1;

/// The region may be written by the driver only; the device reads it.
pub(crate) const ACCESS_RO: u8 = 1;
/// The device may write the region.
pub(crate) const ACCESS_WO: u8 = 2;
/// The region takes a umem registration.
pub(crate) const IOVA_CAP_UMEM: u64 = 1;

/// Message types, `enum vduse_req_type`.
pub(crate) const GET_VQ_STATE: u32 = 0;
pub(crate) const SET_STATUS: u32 = 1;
pub(crate) const UPDATE_IOTLB: u32 = 2;
pub(crate) const SET_VQ_GROUP_ASID: u32 = 3;

/// Answers to a message.
pub(crate) const RESULT_OK: u32 = 0;
pub(crate) const RESULT_FAILED: u32 = 1;

/// `struct vduse_dev_config` without its flexible tail.
#[repr(C)]
pub(crate) struct DevConfig {
    pub(crate) name: [u8; NAME_MAX_BYTES],
    pub(crate) vendor_id: u32,
    pub(crate) device_id: u32,
    pub(crate) features: u64,
    pub(crate) vq_num: u32,
    pub(crate) vq_align: u32,
    /// Version 1: virtqueue groups and address spaces; zero in version 0.
    pub(crate) ngroups: u32,
    pub(crate) nas: u32,
    pub(crate) reserved: [u32; 11],
    /// Set by [`CreateDev::new`].
    pub(crate) config_size: u32,
}

/// What `VDUSE_CREATE_DEV` reads: the head and `config_size` bytes of `config`.
#[repr(C)]
pub(crate) struct CreateDev {
    head: DevConfig,
    config: [u8; CONFIG_MAX_BYTES],
}

impl CreateDev {
    /// `None` when `config` is longer than [`CONFIG_MAX_BYTES`].
    pub(crate) fn new(mut head: DevConfig, config: &[u8]) -> Option<Self> {
        let (config, config_size) = with_length(config)?;
        head.config_size = config_size;
        Some(Self { head, config })
    }
}

/// `struct vduse_iotlb_entry`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct IotlbEntry {
    pub(crate) offset: u64,
    pub(crate) start: u64,
    pub(crate) last: u64,
    pub(crate) perm: u8,
    pub(crate) padding: [u8; 7],
}

/// What `VDUSE_DEV_SET_CONFIG` reads: `struct vduse_config_data` and `length` bytes of `bytes`.
#[repr(C)]
pub(crate) struct ConfigData {
    offset: u32,
    length: u32,
    bytes: [u8; CONFIG_MAX_BYTES],
}

impl ConfigData {
    /// `None` when `bytes` is longer than [`CONFIG_MAX_BYTES`].
    pub(crate) fn new(offset: u32, bytes: &[u8]) -> Option<Self> {
        let (bytes, length) = with_length(bytes)?;
        Some(Self { offset, length, bytes })
    }
}

/// The bytes in an array, and how many they are: never more than the array holds.
fn with_length(bytes: &[u8]) -> Option<([u8; CONFIG_MAX_BYTES], u32)> {
    let mut array = [0; CONFIG_MAX_BYTES];
    array.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some((array, u32::try_from(bytes.len()).ok()?))
}

/// `struct vduse_vq_config`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct VqConfig {
    pub(crate) index: u32,
    pub(crate) max_size: u16,
    pub(crate) reserved1: u16,
    /// Version 1: the queue's group; zero in version 0.
    pub(crate) group: u32,
    pub(crate) reserved2: [u16; 10],
}

/// The union of `vduse_vq_state_split` (the next avail index) and `vduse_vq_state_packed` (wrap counter and place, of
/// what is taken next and of what is returned next). Which one it is, RING_PACKED says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VqState([u16; 4]);

impl VqState {
    /// The state of a ring as the kernel writes it.
    #[must_use]
    pub fn new(kind: RingKind, state: RingState) -> Self {
        let wrap = |place: u16| u16::from(place & RingState::WRAP != 0);
        let index = |place: u16| place & !RingState::WRAP;
        match kind {
            RingKind::Split => Self([state.avail, 0, 0, 0]),
            RingKind::Packed => {
                Self([wrap(state.avail), index(state.avail), wrap(state.used), index(state.used)])
            }
        }
    }

    /// The state as the queue takes it.
    #[must_use]
    pub fn ring(self, kind: RingKind) -> RingState {
        let place = |wrap: u16, index: u16| index | if wrap != 0 { RingState::WRAP } else { 0 };
        match (kind, self.0) {
            (RingKind::Split, [avail, ..]) => RingState { avail, used: 0 },
            (RingKind::Packed, [avail_wrap, avail, used_wrap, used]) => {
                RingState { avail: place(avail_wrap, avail), used: place(used_wrap, used) }
            }
        }
    }

    pub(crate) fn words(self) -> [u16; 4] {
        self.0
    }
}

/// `struct vduse_vq_info`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct VqInfo {
    pub(crate) index: u32,
    pub(crate) num: u32,
    pub(crate) desc_addr: u64,
    pub(crate) driver_addr: u64,
    pub(crate) device_addr: u64,
    pub(crate) state: VqState,
    pub(crate) ready: u8,
    pub(crate) padding: [u8; 7],
}

/// `struct vduse_iova_umem`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct IovaUmem {
    pub(crate) uaddr: u64,
    pub(crate) iova: u64,
    pub(crate) size: u64,
    /// Version 1: the address space; zero in version 0.
    pub(crate) asid: u32,
    pub(crate) reserved: [u32; 5],
}

/// `struct vduse_iova_info`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct IovaInfo {
    pub(crate) start: u64,
    pub(crate) last: u64,
    pub(crate) capability: u64,
    /// Version 1: the address space; zero in version 0.
    pub(crate) asid: u32,
    pub(crate) reserved: [u32; 5],
}

// /dev/vduse/control
pub(crate) const CONTROL_GET_API_VERSION: Ioctl<u64> = Ioctl::new(request_code_read!(BASE, 0x00, 8));
pub(crate) const CONTROL_SET_API_VERSION: Ioctl<u64> = Ioctl::new(request_code_write!(BASE, 0x01, 8));
pub(crate) const CONTROL_CREATE_DEV: Ioctl<CreateDev> =
    Ioctl::new(request_code_write!(BASE, 0x02, size_of::<DevConfig>()));
pub(crate) const CONTROL_DESTROY_DEV: Ioctl<[u8; NAME_MAX_BYTES]> =
    Ioctl::new(request_code_write!(BASE, 0x03, NAME_MAX_BYTES));

// /dev/vduse/NAME. Version 1 keeps IOTLB_GET_FD for address space 0, the only one that we declare, so its successor
// for other address spaces (GET_FD2, 0x1b) is not needed.
pub(crate) const IOTLB_GET_FD: Ioctl<IotlbEntry> =
    Ioctl::new(request_code_readwrite!(BASE, 0x10, size_of::<IotlbEntry>()));
pub(crate) const DEV_GET_FEATURES: Ioctl<u64> = Ioctl::new(request_code_read!(BASE, 0x11, 8));
pub(crate) const DEV_SET_CONFIG: Ioctl<ConfigData> =
    Ioctl::new(request_code_write!(BASE, 0x12, offset_of!(ConfigData, bytes)));
pub(crate) const DEV_INJECT_CONFIG_IRQ: Ioctl<()> = Ioctl::new(request_code_none!(BASE, 0x13));
pub(crate) const VQ_SETUP: Ioctl<VqConfig> =
    Ioctl::new(request_code_write!(BASE, 0x14, size_of::<VqConfig>()));
pub(crate) const VQ_GET_INFO: Ioctl<VqInfo> =
    Ioctl::new(request_code_readwrite!(BASE, 0x15, size_of::<VqInfo>()));
pub(crate) const VQ_INJECT_IRQ: Ioctl<u32> = Ioctl::new(request_code_write!(BASE, 0x17, 4));
pub(crate) const IOTLB_REG_UMEM: Ioctl<IovaUmem> =
    Ioctl::new(request_code_write!(BASE, 0x18, size_of::<IovaUmem>()));
pub(crate) const IOTLB_DEREG_UMEM: Ioctl<IovaUmem> =
    Ioctl::new(request_code_write!(BASE, 0x19, size_of::<IovaUmem>()));
pub(crate) const IOTLB_GET_INFO: Ioctl<IovaInfo> =
    Ioctl::new(request_code_readwrite!(BASE, 0x1a, size_of::<IovaInfo>()));

const BASE: u32 = 0x81;

/// A request number and the type that its pointer points to.
pub(crate) struct Ioctl<T> {
    code: ioctl_num_type,
    argument: PhantomData<fn(T)>,
}

impl<T> Ioctl<T> {
    /// Private: the constants above are the only ones, and each pairs a number with its own structure.
    const fn new(code: ioctl_num_type) -> Self {
        Self { code, argument: PhantomData }
    }

    /// Makes the call; the kernel may write its answer into `argument`. Gives ioctl's non-negative result.
    pub(crate) fn call(&self, fd: BorrowedFd<'_>, argument: &mut T) -> Result<c_int, Errno> {
        // SAFETY: `argument` is valid for reads and writes of a `T`, and the constants of this module pair each number
        // with the structure that the kernel copies for it: it touches no byte beyond (the length fields of `CreateDev` and
        // `ConfigData` are private and never say more than their arrays hold). `T` is integers only, so whatever the
        // kernel writes is a valid `T`. A driver of another kind of fd does not know the numbers and answers ENOTTY.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), self.code, ptr::from_mut(argument)) };
        Errno::result(result)
    }
}

// As the C compiler lays them out (Linux 6.12's header; version 1 renames reserved words and moves nothing).
const _: () = {
    assert!(size_of::<DevConfig>() == 336 && offset_of!(DevConfig, vq_num) == 272);
    assert!(offset_of!(DevConfig, config_size) == 332 && offset_of!(CreateDev, config) == 336);
    assert!(size_of::<IotlbEntry>() == 32 && offset_of!(IotlbEntry, perm) == 24);
    assert!(offset_of!(ConfigData, bytes) == 8);
    assert!(size_of::<VqConfig>() == 32 && offset_of!(VqConfig, max_size) == 4);
    assert!(offset_of!(VqConfig, group) == 8);
    assert!(size_of::<VqInfo>() == 48 && offset_of!(VqInfo, state) == 32 && offset_of!(VqInfo, ready) == 40);
    assert!(size_of::<IovaUmem>() == 48 && offset_of!(IovaUmem, size) == 16);
    assert!(size_of::<IovaInfo>() == 48 && offset_of!(IovaInfo, capability) == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_the_c_header() {
        assert_eq!(CONTROL_GET_API_VERSION.code, 0x8008_8100);
        assert_eq!(CONTROL_SET_API_VERSION.code, 0x4008_8101);
        assert_eq!(CONTROL_CREATE_DEV.code, 0x4150_8102);
        assert_eq!(CONTROL_DESTROY_DEV.code, 0x4100_8103);
        assert_eq!(IOTLB_GET_FD.code, 0xc020_8110);
        assert_eq!(DEV_GET_FEATURES.code, 0x8008_8111);
        assert_eq!(DEV_SET_CONFIG.code, 0x4008_8112);
        assert_eq!(DEV_INJECT_CONFIG_IRQ.code, 0x8113);
        assert_eq!(VQ_SETUP.code, 0x4020_8114);
        assert_eq!(VQ_GET_INFO.code, 0xc030_8115);
        assert_eq!(VQ_INJECT_IRQ.code, 0x4004_8117);
        assert_eq!(IOTLB_REG_UMEM.code, 0x4030_8118);
        assert_eq!(IOTLB_DEREG_UMEM.code, 0x4030_8119);
        assert_eq!(IOTLB_GET_INFO.code, 0xc030_811a);
    }

    #[test]
    fn ring_states_share_their_words() {
        let split = RingState { avail: 0x8007, used: 0 };
        assert_eq!(VqState::new(RingKind::Split, split).words(), [0x8007, 0, 0, 0]);
        assert_eq!(VqState::new(RingKind::Split, split).ring(RingKind::Split), split);
        let packed = RingState { avail: 0x8005, used: 3 };
        assert_eq!(VqState::new(RingKind::Packed, packed).words(), [1, 5, 0, 3]);
        assert_eq!(VqState::new(RingKind::Packed, packed).ring(RingKind::Packed), packed);
    }

    #[test]
    fn lengths_never_exceed_their_arrays() {
        let most = [7; CONFIG_MAX_BYTES];
        assert_eq!(ConfigData::new(0, &most).map(|data| data.length), Some(4096));
        assert!(ConfigData::new(0, &[0; CONFIG_MAX_BYTES + 1]).is_none());
        let data = ConfigData::new(8, &[1, 2]).unwrap();
        assert_eq!((data.offset, data.length, &data.bytes[..3]), (8, 2, &[1, 2, 0][..]));
    }

    #[test]
    fn a_file_that_is_no_vduse_device_refuses() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = std::os::fd::AsFd::as_fd(&file);
        assert_eq!(DEV_GET_FEATURES.call(fd, &mut 0), Err(Errno::ENOTTY));
    }
}
