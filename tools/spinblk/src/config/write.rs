//! From a checked [`Config`] back to the sections that say it, every key spelled out.
//!
//! Checking them gives the same configuration again. Places go with them, so that messages about what a bdev was made of
//! still point to where it was written.

use super::check::{DRIVERS, HUGEPAGES, LOCK_MEMORY};
use super::file::Sections;
use super::layer::{MOVED, error_name};
use super::leaf::{DIRECT, POLL, READS};
use super::rule::{MILLION, op_names, show_latency};
use super::setting::{Section, Setting, Source, Value};
use super::size::exact_size;
use super::{Backend, BackendKind, Config, Disk, HistLogConfig, KeySource, Via};
use crate::backend::Rule;
use crate::control::Endpoints;

pub(super) fn sections(config: &Config) -> Sections {
    let (mut bdevs, mut disks) = (Vec::new(), Vec::new());
    for disk in &config.disks {
        disks.push(disk_section(disk));
        if disk.over_bdev {
            bdev_sections(&disk.backend, &mut bdevs);
        }
    }
    config.unused.iter().for_each(|top| bdev_sections(top, &mut bdevs));
    let reactor = vec![
        core_list(&config.cores),
        text("hugepages", word(&HUGEPAGES, config.hugepages)),
        text("lock_memory", word(&LOCK_MEMORY, config.lock_memory)),
    ];
    Sections {
        reactor: section("", "reactor", reactor),
        control: section("", "control", control(&config.control, config.hist_log.as_ref())),
        bdevs,
        disks,
    }
}

fn control(Endpoints { socket, metrics }: &Endpoints, log: Option<&HistLogConfig>) -> Vec<Setting> {
    let socket = socket.as_ref().map(|path| text("socket", &path.display()));
    let metrics = metrics.as_ref().map(|address| text("metrics", address));
    let log = log.map(|HistLogConfig { path, interval }| {
        [text("hist_log", &path.display()), text("hist_interval", &show_latency(*interval))]
    });
    socket.into_iter().chain(metrics).chain(log.into_iter().flatten()).collect()
}

fn disk_section(disk: &Disk) -> Section {
    let mut settings = vec![text("name", &disk.name)];
    if disk.over_bdev {
        settings.push(text("bdev", &disk.backend.name));
    } else {
        settings.push(text("type", disk.backend.type_name()));
        settings.extend(kind(&disk.backend.kind, false));
    }
    settings.extend([
        integer("queues", disk.queues),
        integer("queue_size", disk.queue_size),
        core_list(&disk.cores),
        text("serial", &disk.serial),
        boolean("read_only", disk.read_only),
    ]);
    match &disk.via {
        Via::Vduse { driver, bounce_bytes, packed, resume, state_dir } => {
            settings.extend([text("transport", "vduse"), text("driver", word(&DRIVERS, *driver))]);
            settings.extend(bounce_bytes.map(|bytes| size("bounce_size", bytes)));
            settings.extend([boolean("packed", *packed), boolean("resume", *resume)]);
            settings.push(text("state_dir", &state_dir.display()));
        }
        Via::VhostUser { socket } => {
            settings.extend([text("transport", "vhost-user"), text("socket", &socket.display())]);
        }
    }
    let place = if disk.over_bdev { "" } else { &disk.backend.place };
    section(place, &format!("disk {}", disk.name), settings)
}

/// A bdev and all that it stands on, parents first. The recursion is as deep as the stack, which checking bounds.
fn bdev_sections(bdev: &Backend, sections: &mut Vec<Section>) {
    let mut settings = vec![text("name", &bdev.name), text("type", bdev.type_name())];
    let names: Vec<&str> = bdev.children().iter().map(|child| child.name.as_str()).collect();
    match (&bdev.kind, names.first()) {
        (BackendKind::Raid0 { .. }, _) => settings.push(texts("children", &names)),
        (_, Some(child)) => settings.push(text("child", child)),
        (_, None) => {}
    }
    settings.extend(kind(&bdev.kind, true));
    sections.push(section(&bdev.place, &format!("bdev {}", bdev.name), settings));
    bdev.children().iter().for_each(|child| bdev_sections(child, sections));
}

/// The keys of a type. Some a disk that says itself what it is does not have, and leaves as they are by default.
fn kind(kind: &BackendKind, of_bdev: bool) -> Vec<Setting> {
    match kind {
        BackendKind::Null { size_bytes, block_size, reads } => vec![
            size("size", *size_bytes),
            integer("block_size", *block_size),
            text("reads", word(&READS, *reads)),
        ],
        BackendKind::Malloc { size_bytes, block_size } => {
            vec![size("size", *size_bytes), integer("block_size", *block_size)]
        }
        BackendKind::Aio { path, direct, poll, block_size, read_only, create_bytes } => {
            let mut settings = vec![text("path", &path.display()), text("direct", word(&DIRECT, *direct))];
            settings.extend(block_size.map(|bytes| integer("block_size", bytes)));
            if of_bdev {
                settings.extend([text("poll", word(&POLL, *poll)), boolean("read_only", *read_only)]);
                settings.extend(create_bytes.map(|bytes| size("create_size", bytes)));
            }
            settings
        }
        BackendKind::Raid0 { chunk_bytes, .. } => vec![size("chunk", *chunk_bytes)],
        BackendKind::Crypto { key, options, .. } => vec![
            match key {
                KeySource::File(path) => text("key_file", &path.display()),
                KeySource::Credential(name) => text("key_credential", name),
            },
            integer("sector_size", options.sector_bytes),
            boolean("discard", options.discard),
        ],
        BackendKind::Delay { rule, latency, .. } => {
            [vec![text("latency", &show_latency(*latency))], self::rule(rule)].concat()
        }
        BackendKind::Error { rule, error, moved, .. } => {
            let settings = vec![text("error", error_name(*error)), text("moved", word(&MOVED, *moved))];
            [settings, self::rule(rule)].concat()
        }
    }
}

fn rule(Rule { ops, range_bytes, per_million, seed }: &Rule) -> Vec<Setting> {
    let rate = f64::from(*per_million) / f64::from(MILLION);
    let mut settings = vec![
        texts("ops", &op_names(*ops)),
        setting("rate", Value::Float(format!("{rate:.6}"))),
        size("offset", range_bytes.start),
    ];
    if range_bytes.end < u64::MAX {
        settings.push(size("length", range_bytes.end - range_bytes.start));
    }
    settings.push(integer("seed", i64::try_from(*seed).unwrap_or(i64::MAX)));
    settings
}

/// The word of a table that stands for `meaning`; each has one.
fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words.iter().find(|(_, other)| *other == meaning).map_or("", |(word, _)| word)
}

fn section(place: &str, title: &str, settings: Vec<Setting>) -> Section {
    let written = place.rsplit_once(':').and_then(|(name, line)| Some((name.into(), line.parse().ok()?)));
    let source = match written {
        Some((name, line)) => Source::File(name, line),
        // Its position is none either.
        None => Source::Flags,
    };
    Section { source, title: title.into(), settings }
}

fn setting(key: &str, value: Value) -> Setting {
    Setting { key: key.into(), value, line: 0 }
}

fn text(key: &str, text: &(impl ToString + ?Sized)) -> Setting {
    setting(key, Value::Text(text.to_string()))
}

fn texts(key: &str, texts: &[&str]) -> Setting {
    setting(key, Value::List(texts.iter().map(|text| Value::Text((*text).into())).collect()))
}

fn integer(key: &str, number: impl Into<i64>) -> Setting {
    setting(key, Value::Integer(number.into()))
}

fn boolean(key: &str, yes: bool) -> Setting {
    setting(key, Value::Boolean(yes))
}

fn size(key: &str, bytes: u64) -> Setting {
    text(key, &exact_size(bytes))
}

fn core_list(cores: &[usize]) -> Setting {
    // Checked to be below 1024.
    setting("cores", Value::List(cores.iter().map(|core| Value::Integer(*core as i64)).collect()))
}
