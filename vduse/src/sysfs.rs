//! `/sys/class/vduse/NAME`: the knobs of one device that have no ioctl.
//!
//! `bounce_size` and `irq_cb_affinity` exist from Linux 6.4. The affinity decides on which CPU the kernel runs the
//! driver's interrupt handler: as a work item that waits its turn there, so it must not be a CPU that a reactor polls
//! without ever sleeping. A driver that probes overwrites it (virtio-blk spreads its queues over all CPUs), so it has to be set
//! whenever the driver has said DRIVER_OK.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tracing::warn;

use crate::Error;
use crate::control::check_name;

const CLASS: &str = "/sys/class/vduse";
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The attributes of one device.
#[derive(Clone, Debug)]
pub struct Attributes {
    dir: PathBuf,
}

impl Attributes {
    /// Those of the device `name`.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn new(name: &str) -> Result<Self, Error> {
        Self::under(Path::new(CLASS), name)
    }

    fn under(class: &Path, name: &str) -> Result<Self, Error> {
        check_name(name)?;
        Ok(Self { dir: class.join(name) })
    }

    /// Tells this device from all others that had its name since the machine booted.
    ///
    /// # Errors
    /// [`Error::Sysfs`].
    pub fn incarnation(&self) -> Result<u64, Error> {
        // sysfs never gives an inode number twice.
        let metadata = std::fs::metadata(&self.dir);
        metadata.map(|metadata| metadata.ino()).map_err(|source| Error::Sysfs {
            path: self.dir.clone(),
            action: "stat".into(),
            source,
        })
    }

    /// Size of the bounce region.
    ///
    /// # Errors
    /// [`Error::Sysfs`]: a kernel before 6.4 has no such file and always uses 64 MiB.
    pub fn bounce_size_bytes(&self) -> Result<u64, Error> {
        read_number(&self.dir.join("bounce_size"))
    }

    /// Sets the size of the bounce region: 1 MiB to 1 GiB, before the device goes on the bus. The kernel rounds down to
    /// whole pages.
    ///
    /// # Errors
    /// [`Error::Sysfs`]: out of range, or too late.
    pub fn set_bounce_size_bytes(&self, bytes: u64) -> Result<(), Error> {
        write(&self.dir.join("bounce_size"), &bytes)
    }

    /// Seconds that the kernel waits for an answer before it declares the device broken; 0 means for ever.
    ///
    /// # Errors
    /// [`Error::Sysfs`].
    pub fn msg_timeout_s(&self) -> Result<u32, Error> {
        read_number(&self.dir.join("msg_timeout"))
    }

    /// Sets [`Self::msg_timeout_s`].
    ///
    /// # Errors
    /// [`Error::Sysfs`].
    pub fn set_msg_timeout_s(&self, seconds: u32) -> Result<(), Error> {
        write(&self.dir.join("msg_timeout"), &seconds)
    }

    /// The CPUs on which a queue's interrupts are handled, ascending.
    ///
    /// # Errors
    /// [`Error::Sysfs`], [`Error::SysfsValue`].
    pub fn irq_affinity(&self, queue: u16) -> Result<Vec<usize>, Error> {
        let path = self.affinity_path(queue);
        let text = read(&path)?;
        parse_mask(&text).ok_or(Error::SysfsValue { path, value: text, expected: "a hexadecimal CPU mask" })
    }

    /// Chooses the CPUs on which a queue's interrupts are handled, in turn. Lasts until the next probe.
    ///
    /// # Errors
    /// [`Error::Sysfs`]: none of them is online.
    pub fn set_irq_affinity(&self, queue: u16, cpus: &[usize]) -> Result<(), Error> {
        write(&self.affinity_path(queue), &format_mask(cpus))
    }

    fn affinity_path(&self, queue: u16) -> PathBuf {
        self.dir.join(format!("vq{queue}")).join("irq_cb_affinity")
    }
}

/// The online CPUs that no reactor polls. With none left: all, and a warning, because interrupts will come late.
///
/// # Errors
/// [`Error::Sysfs`], [`Error::SysfsValue`].
pub fn irq_cpus_off(reactor_cores: &[usize]) -> Result<Vec<usize>, Error> {
    let path = Path::new(ONLINE);
    let text = read(path)?;
    let online = parse_list(&text).ok_or(Error::SysfsValue {
        path: path.into(),
        value: text,
        expected: "a list of CPUs",
    })?;
    let free: Vec<usize> = online.iter().copied().filter(|cpu| !reactor_cores.contains(cpu)).collect();
    if free.is_empty() {
        warn!(
            "every core has a reactor: interrupts are handled on polled cores and come late; leave one core free"
        );
        return Ok(online);
    }
    Ok(free)
}

/// `cpumask_parse` wants hexadecimal words of 32 bits, the highest first, commas between.
fn format_mask(cpus: &[usize]) -> String {
    let mut words = vec![0u32; cpus.iter().max().map_or(1, |cpu| cpu / 32 + 1)];
    for cpu in cpus {
        words[cpu / 32] |= 1 << (cpu % 32);
    }
    let words: Vec<String> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
    words.join(",")
}

fn parse_mask(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for (i, word) in text.split(',').rev().enumerate() {
        let word = u32::from_str_radix(word, 16).ok()?;
        cpus.extend((0..32).filter(|bit| word >> bit & 1 == 1).map(|bit| 32 * i + bit));
    }
    Some(cpus)
}

/// A list such as `0-3,8`.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

/// A file's text without the newline.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Sysfs {
        path: path.into(),
        action: "read".into(),
        source,
    })?;
    Ok(text.trim().into())
}

fn read_number<T: FromStr>(path: &Path) -> Result<T, Error> {
    let value = read(path)?;
    value.parse().map_err(|_| Error::SysfsValue { path: path.into(), value, expected: "a number" })
}

/// Writes `value` in one system call, as sysfs wants it; the file must exist.
pub(crate) fn write(path: &Path, value: &dyn Display) -> Result<(), Error> {
    let value = value.to_string();
    let opened = std::fs::OpenOptions::new().write(true).open(path);
    opened
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| Error::Sysfs { path: path.into(), action: format!("write \"{value}\" to"), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_kernels() {
        assert_eq!(format_mask(&[0, 1]), "00000003");
        assert_eq!(format_mask(&[33, 2]), "00000002,00000004");
        assert_eq!(format_mask(&[]), "00000000");
        for cpus in [vec![], vec![0], vec![31, 32], vec![5, 64, 95]] {
            assert_eq!(parse_mask(&format_mask(&cpus)), Some(cpus));
        }
        assert_eq!(parse_mask("3"), Some(vec![0, 1]));
        assert_eq!(parse_mask("f,00000000"), Some(vec![32, 33, 34, 35]));
        assert_eq!((parse_mask(""), parse_mask("0-3"), parse_mask("x")), (None, None, None));
    }

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(parse_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list("0"), Some(vec![0]));
        assert_eq!((parse_list(""), parse_list("a-b")), (None, None));
    }

    #[test]
    fn reactor_cores_are_left_out_unless_nothing_remains() {
        let online = irq_cpus_off(&[]).unwrap();
        assert_eq!(irq_cpus_off(&online).unwrap(), online);
        if online.len() > 1 {
            assert_eq!(irq_cpus_off(&online[1..]).unwrap(), online[..1]);
        }
    }

    #[test]
    fn attributes_are_read_and_written() {
        let class = tempfile::tempdir().unwrap();
        let dir = class.path().join("d0");
        std::fs::create_dir_all(dir.join("vq3")).unwrap();
        for (file, text) in
            [("bounce_size", "67108864\n"), ("msg_timeout", "30\n"), ("vq3/irq_cb_affinity", "3\n")]
        {
            std::fs::write(dir.join(file), text).unwrap();
        }
        let attributes = Attributes::under(class.path(), "d0").unwrap();
        assert_eq!(attributes.bounce_size_bytes().unwrap(), 64 << 20);
        assert_eq!(attributes.msg_timeout_s().unwrap(), 30);
        assert_eq!(attributes.irq_affinity(3).unwrap(), [0, 1]);
        attributes.set_irq_affinity(3, &[1]).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("vq3/irq_cb_affinity")).unwrap(), "00000002");
    }

    #[test]
    fn errors_name_the_file_and_the_value() {
        let class = tempfile::tempdir().unwrap();
        let attributes = Attributes::under(class.path(), "d0").unwrap();
        let error = attributes.set_bounce_size_bytes(5).unwrap_err().to_string();
        assert!(error.contains("write \"5\" to") && error.contains("d0/bounce_size"), "{error}");
        std::fs::create_dir(class.path().join("d0")).unwrap();
        std::fs::write(class.path().join("d0/msg_timeout"), "soon\n").unwrap();
        let error = attributes.msg_timeout_s().unwrap_err().to_string();
        assert!(error.contains("holds \"soon\"; a number expected"), "{error}");
        assert!(Attributes::under(class.path(), "../d0").is_err());
    }
}
