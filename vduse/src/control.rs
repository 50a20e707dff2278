//! `/dev/vduse/control`: makes and destroys devices.
//!
//! Opening it settles the API version: the kernel's or ours, whichever is older. A device is checked here before the
//! kernel sees it, because the kernel accepts names and features that it later cannot handle (a name with a slash
//! makes a node that nobody can remove). Making a device that exists is no error: a process that died leaves its
//! devices behind, and the next one takes them over.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use tracing::debug;

use crate::Error;
use crate::uapi::{
    API_VERSION_MAX, CONFIG_MAX_BYTES, CONTROL_CREATE_DEV, CONTROL_DESTROY_DEV, CONTROL_GET_API_VERSION,
    CONTROL_SET_API_VERSION, CreateDev, DevConfig, NAME_MAX_BYTES,
};

const CONTROL: &str = "/dev/vduse/control";

/// Bit of VIRTIO_F_VERSION_1 and of VIRTIO_F_ACCESS_PLATFORM in the feature word.
const F_VERSION_1: u32 = 32;
const F_ACCESS_PLATFORM: u32 = 33;

/// What a device is, for the kernel.
#[derive(Clone, Debug)]
pub struct DeviceSpec<'a> {
    /// Its name: of `/dev/vduse/NAME`, and later on the vDPA bus.
    pub name: &'a str,
    /// The virtio device type; 2 is a block device.
    pub device_id: u32,
    /// The virtio vendor.
    pub vendor_id: u32,
    /// The features offered; VERSION_1 and ACCESS_PLATFORM must be among them.
    pub features: u64,
    /// Number of queues.
    pub queues: u16,
    /// The configuration space.
    pub config: &'a [u8],
}

/// Whether [`Control::create`] made the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It did.
    New,
    /// A device of this name was there, with the features, queues and configuration of whoever made it.
    Existed,
}

/// The open control device.
#[derive(Debug)]
pub struct Control {
    file: File,
    api_version: u64,
}

impl Control {
    /// Opens `/dev/vduse/control` and settles the API version.
    ///
    /// # Errors
    /// [`Error::Control`]: the module is missing, no permission, or the kernel refuses the version.
    pub fn open() -> Result<Self, Error> {
        Self::open_at(Path::new(CONTROL))
    }

    fn open_at(path: &Path) -> Result<Self, Error> {
        let failed = |action, source| Error::Control { path: PathBuf::from(path), action, source };
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|source| failed("open", source))?;
        let mut kernel_version = 0;
        CONTROL_GET_API_VERSION
            .call(file.as_fd(), &mut kernel_version)
            .map_err(|e| failed("get the API version of", e.into()))?;
        // Always set it: asking alone moves the file to the kernel's newest version, which may be one unknown to us.
        let mut api_version = kernel_version.min(API_VERSION_MAX);
        CONTROL_SET_API_VERSION
            .call(file.as_fd(), &mut api_version)
            .map_err(|e| failed("set the API version of", e.into()))?;
        debug!("VDUSE API: kernel {kernel_version}, used {api_version}");
        Ok(Self { file, api_version })
    }

    /// The API version in use: 0 or 1.
    #[must_use]
    pub fn api_version(&self) -> u64 {
        self.api_version
    }

    /// Makes the device, or finds that it exists.
    ///
    /// # Errors
    /// [`Error::Name`] and [`Error::Spec`] before the kernel is asked; [`Error::Create`] when it refuses.
    pub fn create(&self, spec: &DeviceSpec<'_>) -> Result<Created, Error> {
        check_name(spec.name)?;
        check_spec(spec)?;
        let Some(mut request) = CreateDev::new(head(spec, self.api_version), spec.config) else {
            return Err(config_too_long(spec));
        };
        match CONTROL_CREATE_DEV.call(self.file.as_fd(), &mut request) {
            Ok(_) => Ok(Created::New),
            Err(Errno::EEXIST) => Ok(Created::Existed),
            Err(source) => Err(Error::Create { name: spec.name.into(), source }),
        }
    }

    /// Destroys the device. It must be off the vDPA bus and closed.
    ///
    /// # Errors
    /// [`Error::Destroy`]: still in use, or there is none.
    pub fn destroy(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        CONTROL_DESTROY_DEV
            .call(self.file.as_fd(), &mut name_bytes(name))
            .map_err(|source| Error::Destroy { name: name.into(), source })?;
        Ok(())
    }
}

/// Whether `name` can be a device's name.
///
/// # Errors
/// [`Error::Name`] says why not.
pub fn check_name(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() >= NAME_MAX_BYTES {
        "is too long"
    } else if name == "control" {
        "is taken by the kernel"
    } else if name.starts_with('.') {
        "starts with a dot"
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        "has a character that is not allowed"
    } else {
        return Ok(());
    };
    Err(Error::Name { name: name.into(), reason })
}

fn head(spec: &DeviceSpec<'_>, api_version: u64) -> DevConfig {
    // Version 1 wants at least one group in one address space; version 0 wants zeroes there.
    let groups = u32::from(api_version >= 1);
    DevConfig {
        name: name_bytes(spec.name),
        vendor_id: spec.vendor_id,
        device_id: spec.device_id,
        features: spec.features,
        vq_num: spec.queues.into(),
        // One page: what the kernel's own ring allocation is aligned to anyway.
        vq_align: 4096,
        ngroups: groups,
        nas: groups,
        reserved: [0; 11],
        config_size: 0,
    }
}

fn check_spec(spec: &DeviceSpec<'_>) -> Result<(), Error> {
    let bad = |reason: String| Err(Error::Spec { name: spec.name.into(), reason });
    for (bit, feature) in [(F_VERSION_1, "VERSION_1"), (F_ACCESS_PLATFORM, "ACCESS_PLATFORM")] {
        if spec.features & (1 << bit) == 0 {
            return bad(format!(
                "the features {:#x} lack VIRTIO_F_{feature}, which VDUSE needs",
                spec.features
            ));
        }
    }
    if spec.queues == 0 {
        return bad("it has no queue; at least 1 is needed".into());
    }
    Ok(())
}

fn config_too_long(spec: &DeviceSpec<'_>) -> Error {
    let len = spec.config.len();
    let reason = format!("a configuration space of {len} bytes; at most {CONFIG_MAX_BYTES} are allowed");
    Error::Spec { name: spec.name.into(), reason }
}

/// The name with NULs behind it; `check_name` has seen it.
fn name_bytes(name: &str) -> [u8; NAME_MAX_BYTES] {
    let mut bytes = [0; NAME_MAX_BYTES];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: u64 = 1 << F_VERSION_1 | 1 << F_ACCESS_PLATFORM;

    fn spec(name: &str) -> DeviceSpec<'_> {
        DeviceSpec { name, device_id: 2, vendor_id: 0, features: NEEDED, queues: 2, config: &[1, 2, 3] }
    }

    #[test]
    fn only_names_that_are_safe_as_file_names_pass() {
        let longest = "x".repeat(255);
        for good in ["d0", "a.b_c-D9", "controller", "-", longest.as_str()] {
            check_name(good).unwrap();
        }
        let too_long = "x".repeat(256);
        for bad in
            ["", ".", "..", ".d", "control", "a/b", "a b", "a\0b", "a\n", "ü", "d!0", too_long.as_str()]
        {
            let error = check_name(bad).unwrap_err();
            assert!(matches!(error, Error::Name { .. }), "{bad:?}");
        }
    }

    #[test]
    fn groups_are_declared_to_version_1_only() {
        let v0 = head(&spec("d0"), 0);
        assert_eq!((&v0.name[..3], v0.vq_num, v0.reserved), (&b"d0\0"[..], 2, [0; 11]));
        assert_eq!((v0.ngroups, v0.nas), (0, 0));
        let v1 = head(&spec("d0"), 1);
        assert_eq!((v1.ngroups, v1.nas), (1, 1));
    }

    #[test]
    fn a_bad_spec_is_refused_with_the_reason() {
        let cases = [
            (DeviceSpec { features: 1 << F_VERSION_1, ..spec("d0") }, "ACCESS_PLATFORM"),
            (DeviceSpec { features: 1 << F_ACCESS_PLATFORM, ..spec("d0") }, "VERSION_1"),
            (DeviceSpec { queues: 0, ..spec("d0") }, "no queue"),
        ];
        for (spec, expected) in cases {
            let error = check_spec(&spec).unwrap_err().to_string();
            assert!(error.contains("disk d0") && error.contains(expected), "{error}");
        }
        check_spec(&spec("d0")).unwrap();
        let big = [0; CONFIG_MAX_BYTES + 1];
        let error = config_too_long(&DeviceSpec { config: &big, ..spec("d0") }).to_string();
        assert!(error.contains("4097 bytes"), "{error}");
    }

    #[test]
    fn a_missing_or_wrong_control_device_is_an_error_with_the_fix() {
        let error = Control::open_at(Path::new("/dev/there-is-no-vduse")).unwrap_err();
        assert!(error.to_string().contains("modprobe vduse"), "{error}");
        let error = Control::open_at(Path::new("/dev/null")).unwrap_err();
        assert!(
            matches!(&error, Error::Control { source, .. } if source.raw_os_error() == Some(libc::ENOTTY))
        );
    }
}
