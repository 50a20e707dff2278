//! From settings as written to a checked [`Config`].

use spinblk_reactor::Hugepages;

use super::file::Sections;
use super::setting::{Section, Value};
use super::size::{SIZE_FORMS, parse_size, show_size};
use super::{Backend, Config, Disk, Via};
use crate::Error;
use crate::backend::{Direct, NullReads};
use crate::transport::BusDriver;

const NAME_FORM: &str = "1 to 64 letters, digits, '.', '_', '-', starting with a letter or digit";
/// The control node's name in /dev/vduse; a disk of that name would collide with it.
const RESERVED_NAME: &str = "control";
const MAX_SERIAL_BYTES: usize = 20;
/// What the kernel's address of a unix socket holds.
const MAX_SOCKET_BYTES: usize = 107;
const DEFAULT_QUEUE_SIZE: u16 = 256;
const DEFAULT_BLOCK_SIZE: u32 = 512;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(super) const REACTOR_KEYS: &[&str] = &["cores", "hugepages"];
pub(super) const DISK_KEYS: &[&str] = &[
    "name",
    "type",
    "size",
    "path",
    "direct",
    "reads",
    "block_size",
    "queues",
    "queue_size",
    "cores",
    "serial",
    "read_only",
    "transport",
    "driver",
    "bounce_size",
    "packed",
    "socket",
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Null,
    Malloc,
    Aio,
}

pub(super) fn config(sections: &Sections) -> Result<Config, Error> {
    let reactor = &sections.reactor;
    reactor.only(REACTOR_KEYS)?;
    let cores = cores(reactor)?
        .ok_or_else(|| reactor.missing("cores", "name the cores that are to poll, one reactor each"))?;
    let hugepages = reactor.choice(
        "hugepages",
        &[("try", Hugepages::Try), ("require", Hugepages::Require), ("off", Hugepages::Off)],
    )?;
    let mut disks: Vec<Disk> = Vec::with_capacity(sections.disks.len());
    for section in &sections.disks {
        let disk = disk(section, &cores)?;
        if disks.iter().any(|other| other.name == disk.name) {
            return Err(refuse(section, "name", "another disk has this name; give each its own"));
        }
        if matches!(disk.via, Via::VhostUser { .. }) && disks.iter().any(|other| other.via == disk.via) {
            return Err(refuse(section, "socket", "another disk has this socket; give each its own"));
        }
        disks.push(disk);
    }
    if disks.is_empty() {
        return Err(Error::Usage(
            "there is no disk to serve: add a [[disk]] section or a --disk flag".into(),
        ));
    }
    Ok(Config { cores, hugepages: hugepages.unwrap_or_default(), disks })
}

pub(super) fn disk(section: &Section, reactor_cores: &[usize]) -> Result<Disk, Error> {
    section.only(DISK_KEYS)?;
    let name = section
        .read("name", NAME_FORM, |value| value.text().filter(|name| is_name(name)).map(String::from))?
        .ok_or_else(|| section.missing("name", "it names the disk on the vDPA bus, for example \"d0\""))?;
    let in_range = |n: i64, low: u16, high: u16| u16::try_from(n).ok().filter(|n| (low..=high).contains(n));
    let queues = section.read("queues", "1 to 64", |value| in_range(value.integer()?, 1, 64))?;
    let queue_size = section.read("queue_size", "a power of two from 4 to 1024", |value| {
        // A request takes three descriptors: header, data, status.
        in_range(value.integer()?, 4, 1024).filter(|n| n.is_power_of_two())
    })?;
    let serial = section.read("serial", "at most 20 printable ASCII characters", |value| {
        let text = value.text()?;
        let fits = text.len() <= MAX_SERIAL_BYTES && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        fits.then(|| text.to_string())
    })?;
    Ok(Disk {
        backend: backend(section)?,
        queues: queues.unwrap_or(1),
        queue_size: queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
        cores: disk_cores(section, reactor_cores)?,
        // Names are ASCII, so cutting one never splits a character.
        serial: serial.unwrap_or_else(|| name.chars().take(MAX_SERIAL_BYTES).collect()),
        read_only: section.read("read_only", "true, false", |value| value.boolean())?.unwrap_or(false),
        via: via(section)?,
        name,
    })
}

fn via(section: &Section) -> Result<Via, Error> {
    let vhost_user = section.choice("transport", &[("vduse", false), ("vhost-user", true)])?.unwrap_or(false);
    let (foreign, why): (&[&str], _) = match vhost_user {
        true => (&["driver", "bounce_size", "packed"], "only for transport vduse"),
        false => (&["socket"], "only for transport vhost-user"),
    };
    if let Some(setting) = foreign.iter().find_map(|key| section.get(key)) {
        return Err(section.refuse(setting, why));
    }
    if vhost_user {
        let allowed = format!("the path of a unix socket, at most {MAX_SOCKET_BYTES} bytes");
        let socket = section.read("socket", &allowed, |value| {
            let fits = |path: &&str| (1..=MAX_SOCKET_BYTES).contains(&path.len()) && !path.contains('\0');
            value.text().filter(fits).map(Into::into)
        })?;
        let why = "transport vhost-user needs the path of its socket, for example \"/run/d0.sock\"";
        return Ok(Via::VhostUser { socket: socket.ok_or_else(|| section.missing("socket", why))? });
    }
    let drivers = [("virtio-vdpa", BusDriver::VirtioVdpa), ("vhost-vdpa", BusDriver::VhostVdpa)];
    Ok(Via::Vduse {
        driver: section.choice("driver", &drivers)?.unwrap_or(BusDriver::VirtioVdpa),
        bounce_bytes: section.read("bounce_size", "1MiB to 1GiB, a multiple of 1MiB", |value| {
            let bytes = size_bytes(value)?;
            ((MIB..=GIB).contains(&bytes) && bytes % MIB == 0).then_some(bytes)
        })?,
        packed: section.read("packed", "true, false", |value| value.boolean())?.unwrap_or(false),
    })
}

fn backend(section: &Section) -> Result<Backend, Error> {
    let kind = section
        .choice("type", &[("null", Kind::Null), ("malloc", Kind::Malloc), ("aio", Kind::Aio)])?
        .ok_or_else(|| section.missing("type", "allowed: null, malloc, aio"))?;
    refuse_keys_of_other_kinds(section, kind)?;
    let block_size = section.read("block_size", "512, 1024, 2048, 4096", |value| {
        u32::try_from(value.integer()?).ok().filter(|n| [512, 1024, 2048, 4096].contains(n))
    })?;
    if kind == Kind::Aio {
        let path = section.read("path", "the path of a file or block device", |value| {
            value.text().filter(|path| !path.is_empty() && !path.contains('\0')).map(Into::into)
        })?;
        let direct = section
            .choice("direct", &[("auto", Direct::Auto), ("on", Direct::On), ("off", Direct::Off)])?
            .unwrap_or(Direct::Auto);
        let why = "type aio needs the path of a file or block device";
        let path = path.ok_or_else(|| section.missing("path", why))?;
        return Ok(Backend::Aio { path, direct, block_size });
    }
    let block_size = block_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let size_bytes = memory_size_bytes(section, block_size)?;
    Ok(match kind {
        Kind::Null => {
            let words = [("untouched", NullReads::Untouched), ("zeroes", NullReads::Zeroes)];
            let reads = section.choice("reads", &words)?.unwrap_or(NullReads::Untouched);
            Backend::Null { size_bytes, block_size, reads }
        }
        Kind::Malloc | Kind::Aio => Backend::Malloc { size_bytes, block_size },
    })
}

fn refuse_keys_of_other_kinds(section: &Section, kind: Kind) -> Result<(), Error> {
    let foreign: &[(&str, &str)] = match kind {
        Kind::Null => &[("path", "only for type aio"), ("direct", "only for type aio")],
        Kind::Malloc => {
            &[("path", "only for type aio"), ("direct", "only for type aio"), ("reads", "only for type null")]
        }
        Kind::Aio => &[
            ("size", "not for type aio, which has the size of its file; see `truncate`"),
            ("reads", "only for type null"),
        ],
    };
    match foreign.iter().find_map(|(key, why)| Some((section.get(key)?, why))) {
        Some((setting, why)) => Err(section.refuse(setting, why)),
        None => Ok(()),
    }
}

fn memory_size_bytes(section: &Section, block_size: u32) -> Result<u64, Error> {
    let block = u64::from(block_size);
    let bytes = section
        .read("size", SIZE_FORMS, size_bytes)?
        .ok_or_else(|| section.missing("size", "for example \"256MiB\""))?;
    if bytes < block {
        return Err(refuse(
            section,
            "size",
            &format!("less than one block of {block} bytes; make it larger"),
        ));
    }
    if bytes % block != 0 || i64::try_from(bytes).is_err() {
        let why =
            format!("allowed: a multiple of the block size of {block} bytes, below {}", show_size(1 << 63));
        return Err(refuse(section, "size", &why));
    }
    Ok(bytes)
}

fn size_bytes(value: &Value) -> Option<u64> {
    match value.text() {
        Some(text) => parse_size(text),
        None => u64::try_from(value.integer()?).ok(),
    }
}

fn disk_cores(section: &Section, reactor_cores: &[usize]) -> Result<Vec<usize>, Error> {
    let Some(cores) = cores(section)? else { return Ok(reactor_cores.to_vec()) };
    match cores.iter().find(|core| !reactor_cores.contains(core)) {
        Some(core) => {
            let why = format!("core {core} has no reactor; allowed: {}", show_cores(reactor_cores));
            Err(refuse(section, "cores", &why))
        }
        None => Ok(cores),
    }
}

pub(super) fn cores(section: &Section) -> Result<Option<Vec<usize>>, Error> {
    let allowed = "core numbers from 0 to 1023, at least one";
    let cores = section.read("cores", allowed, |value| value.cores().filter(|cores| !cores.is_empty()))?;
    let twice = cores
        .iter()
        .flatten()
        .enumerate()
        .find(|&(at, core)| cores.iter().flatten().take(at).any(|earlier| earlier == core));
    match twice {
        Some((_, core)) => Err(refuse(section, "cores", &format!("core {core} is named twice"))),
        None => Ok(cores),
    }
}

fn refuse(section: &Section, key: &str, why: &str) -> Error {
    match section.get(key) {
        Some(setting) => section.refuse(setting, why),
        None => section.missing(key, why),
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name != RESERVED_NAME
}

/// Core numbers for people: `1, 2`.
pub(crate) fn show_cores(cores: &[usize]) -> String {
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    cores.join(", ")
}
