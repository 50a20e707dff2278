//! From settings as written to a checked [`Config`].

use std::collections::HashSet;
use std::path::PathBuf;

use spinblk_reactor::Hugepages;

use super::file::Sections;
use super::leaf::size_bytes;
use super::setting::{Section, Setting, Value};
use super::stack::Stacks;
use super::{Backend, Config, Disk, Stack, Via, types};
use crate::Error;
use crate::memory_lock::LockMemory;
use crate::transport::BusDriver;

pub(super) const NAME_FORM: &str = "1 to 64 letters, digits, '.', '_', '-', starting with a letter or digit";
/// The control node's name in /dev/vduse; a disk of that name would collide with it.
const RESERVED_NAME: &str = "control";
const MAX_SERIAL_BYTES: usize = 20;
/// What the kernel's address of a unix socket holds.
const MAX_SOCKET_BYTES: usize = 107;
const DEFAULT_QUEUE_SIZE: u16 = 256;
/// Where logs of requests in flight are kept.
const DEFAULT_STATE_DIR: &str = "/run/spinblk/inflight";
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(super) const REACTOR_KEYS: &[&str] = &["cores", "hugepages", "lock_memory"];
pub(super) const DISK_KEYS: &[&str] = &[
    "name",
    "type",
    "bdev",
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
    "resume",
    "state_dir",
    "socket",
];

/// The words for locked memory.
pub(super) const LOCK_MEMORY: [(&str, LockMemory); 3] =
    [("try", LockMemory::Try), ("require", LockMemory::Require), ("off", LockMemory::Off)];
/// The words for hugepages.
pub(super) const HUGEPAGES: [(&str, Hugepages); 3] =
    [("try", Hugepages::Try), ("require", Hugepages::Require), ("off", Hugepages::Off)];
/// The words for bus drivers.
pub(super) const DRIVERS: [(&str, BusDriver); 2] =
    [("virtio-vdpa", BusDriver::VirtioVdpa), ("vhost-vdpa", BusDriver::VhostVdpa)];

/// Those that say what holds the data, which a disk over a bdev does not say itself.
const STACK_KEYS: &[&str] = &["type", "size", "path", "direct", "reads", "block_size"];

pub(super) fn config(sections: &Sections) -> Result<Config, Error> {
    let reactor = &sections.reactor;
    reactor.only(REACTOR_KEYS)?;
    let cores = cores(reactor)?
        .ok_or_else(|| reactor.missing("cores", "name the cores that are to poll, one reactor each"))?;
    let hugepages = reactor.choice("hugepages", &HUGEPAGES)?;
    let lock_memory = reactor.choice("lock_memory", &LOCK_MEMORY)?;
    let mut stacks = Stacks::read(&sections.bdevs)?;
    let mut disks: Vec<Disk> = Vec::with_capacity(sections.disks.len());
    let (mut names, mut sockets) = (HashSet::new(), HashSet::new());
    for section in &sections.disks {
        let disk = disk(section, &cores, &mut stacks)?;
        if !names.insert(disk.name.clone()) {
            return Err(section.refuse_key("name", "another disk has this name; give each its own"));
        }
        if let Via::VhostUser { socket } = &disk.via
            && !sockets.insert(socket.clone())
        {
            return Err(section.refuse_key("socket", "another disk has this socket; give each its own"));
        }
        disks.push(disk);
    }
    let control = super::control::endpoints(&sections.control)?;
    // With a control socket, disks may come later.
    if disks.is_empty() && control.socket.is_none() {
        return Err(Error::Usage(
            "there is no disk to serve: add a [[disk]] section or a --disk flag".into(),
        ));
    }
    let hist_log = super::control::hist_log(&sections.control)?;
    let (hugepages, unused) = (hugepages.unwrap_or_default(), stacks.rest()?);
    let lock_memory = lock_memory.unwrap_or_default();
    Ok(Config { cores, hugepages, lock_memory, control, hist_log, disks, unused })
}

fn disk(section: &Section, reactor_cores: &[usize], stacks: &mut Stacks<'_>) -> Result<Disk, Error> {
    super::types::refuse_keys_in_clear(section)?;
    section.only(DISK_KEYS)?;
    let name = section
        .read("name", NAME_FORM, |value| {
            value.text().filter(|name| is_name(name) && *name != RESERVED_NAME).map(String::from)
        })?
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
        backend: backend(section, &name, stacks)?,
        over_bdev: section.get("bdev").is_some(),
        queues: queues.unwrap_or(1),
        queue_size: queue_size.unwrap_or(DEFAULT_QUEUE_SIZE),
        cores: disk_cores(section, reactor_cores)?,
        // Names are ASCII, so cutting one never splits a character.
        serial: serial.unwrap_or_else(|| name.chars().take(MAX_SERIAL_BYTES).collect()),
        read_only: section.flag("read_only")?,
        via: via(section)?,
        name,
    })
}

fn via(section: &Section) -> Result<Via, Error> {
    let vhost_user = section.choice("transport", &[("vduse", false), ("vhost-user", true)])?.unwrap_or(false);
    let (foreign, why): (&[&str], _) = match vhost_user {
        true => (&["driver", "bounce_size", "packed", "resume", "state_dir"], "only for transport vduse"),
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
    Ok(Via::Vduse {
        driver: section.choice("driver", &DRIVERS)?.unwrap_or(BusDriver::VirtioVdpa),
        bounce_bytes: section.read("bounce_size", "1MiB to 1GiB, a multiple of 1MiB", |value| {
            let bytes = size_bytes(value)?;
            ((MIB..=GIB).contains(&bytes) && bytes % MIB == 0).then_some(bytes)
        })?,
        packed: section.flag("packed")?,
        resume: section.read("resume", "true, false", Value::boolean)?.unwrap_or(true),
        state_dir: section
            .read("state_dir", "the absolute path of a folder, on a tmpfs", |value| {
                value.text().map(PathBuf::from).filter(|path| path.is_absolute())
            })?
            .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
    })
}

/// What holds a disk's data: a stack of the file, or what the section itself says.
fn backend(section: &Section, name: &str, stacks: &mut Stacks<'_>) -> Result<Backend, Error> {
    if !section.is_in_file()
        && stacks.is_empty()
        && let Some(setting) = section.get("bdev")
    {
        let why =
            "there are no bdevs; they are written in a file, see --config, or added with `ctl bdev add`";
        return Err(section.refuse(setting, why));
    }
    let bdev = section.read("bdev", "the name of one [[bdev]]", |value| {
        value.text().filter(|name| is_name(name)).map(String::from)
    })?;
    let Some(bdev) = bdev else {
        return types::backend(section, name, types::of_disk(section)?, Vec::new());
    };
    let said_there = |setting: &&Setting| STACK_KEYS.contains(&setting.key.as_str());
    match section.settings.iter().find(said_there) {
        Some(setting) => {
            Err(section.refuse(setting, &format!("not with bdev; [[bdev]] {bdev} says what it is")))
        }
        None => stacks.take(section, name, &bdev),
    }
}

/// The stacks of a file, those of disks first; without reactors and disks it is a file of bdevs alone.
pub(super) fn stacks(sections: &Sections) -> Result<Vec<Stack>, Error> {
    if !sections.disks.is_empty() || !sections.reactor.settings.is_empty() {
        return Ok(config(sections)?.into_stacks());
    }
    let bdevs = Stacks::read(&sections.bdevs)?.rest()?;
    if bdevs.is_empty() {
        return Err(Error::Usage("there is no bdev to look at: add a [[bdev]] section".into()));
    }
    Ok(bdevs.into_iter().map(|top| Stack { disk: None, read_only: false, top }).collect())
}

fn disk_cores(section: &Section, reactor_cores: &[usize]) -> Result<Vec<usize>, Error> {
    let Some(cores) = cores(section)? else { return Ok(reactor_cores.to_vec()) };
    match cores.iter().find(|core| !reactor_cores.contains(core)) {
        Some(core) => {
            let why = format!("core {core} has no reactor; allowed: {}", show_cores(reactor_cores));
            Err(section.refuse_key("cores", &why))
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
        Some((_, core)) => Err(section.refuse_key("cores", &format!("core {core} is named twice"))),
        None => Ok(cores),
    }
}

pub(super) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Core numbers for people: `1, 2`.
pub(crate) fn show_cores(cores: &[usize]) -> String {
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    cores.join(", ")
}
