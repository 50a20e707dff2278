//! The target of `spinblk perf`: a disk described in one flag, `malloc:size=1GiB`, with the keys that `--disk` has.

use super::check;
use super::flags::split_at_commas;
use super::setting::{Section, Setting, Source, Value};
use super::{Backend, Disk};
use crate::Error;

/// Keys that say what a disk is; the others say how it is exported.
const KEYS: &[&str] = &["size", "path", "direct", "reads", "block_size", "read_only", "type"];

/// Checks a target: `kind` is what stands before the colon, `keys` what stands behind it.
pub(crate) fn target(kind: &str, keys: &str) -> Result<Disk, Error> {
    let mut section = Section { source: Source::Flag("--target"), title: kind.into(), settings: Vec::new() };
    for pair in split_at_commas(keys).into_iter().filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
        let setting = Setting { key: key.replace('-', "_"), value: Value::Flag(value.into()), line: 0 };
        if !pair.contains('=') {
            return Err(section.refuse(&setting, "KEY=VALUE is wanted, with commas between"));
        }
        if setting.key == "type" || section.get(&setting.key).is_some() {
            return Err(section.refuse(&setting, "this key was given before"));
        }
        section.settings.push(setting);
    }
    section.only(KEYS)?;
    for (key, value) in [("type", kind), ("name", kind)] {
        section.settings.push(Setting { key: key.into(), value: Value::Flag(value.into()), line: 0 });
    }
    check::disk(&section, &[])
}

/// Core numbers as flags spell them, none twice.
pub(crate) fn core_list(text: &str) -> Result<Vec<usize>, Error> {
    let setting = Setting { key: "cores".into(), value: Value::Flag(text.into()), line: 0 };
    let section = Section { source: Source::Flags, title: String::new(), settings: vec![setting] };
    Ok(check::cores(&section)?.unwrap_or_default())
}

impl Backend {
    /// The kinds that a target may be.
    pub(crate) const KINDS: [&str; 3] = ["null", "malloc", "aio"];
}
