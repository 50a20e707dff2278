//! The target of `spinblk perf`: a disk described in one flag, `malloc:size=1GiB`, with the keys that `--disk` has.

use std::path::Path;

use super::flags::split_at_commas;
use super::setting::{Section, Setting, Source, Value};
use super::{Stack, check, stacks_from_file, types};
use crate::Error;

/// The kinds of target that say themselves what they are.
pub(crate) const INLINE_KINDS: [&str; 3] = ["null", "malloc", "aio"];
/// Keys that say what a disk is; the others say how it is exported.
const KEYS: &[&str] = &["size", "path", "direct", "reads", "block_size", "read_only", "type"];

/// Checks a target: `kind` is what stands before the colon, `keys` what stands behind it.
pub(crate) fn target(kind: &str, keys: &str) -> Result<Stack, Error> {
    let mut section = section(kind, keys)?;
    section.only(KEYS)?;
    section.settings.push(setting("type", kind));
    let top = types::backend(&section, kind, types::of_disk(&section)?, Vec::new())?;
    Ok(Stack { disk: None, read_only: section.flag("read_only")?, top })
}

/// A bdev of a configuration file, with all that it stands on: `file=FILE,bdev=NAME`. Of a disk that is read-only,
/// so is every part.
pub(crate) fn config_target(keys: &str) -> Result<Stack, Error> {
    let section = section("config", keys)?;
    section.only(&["file", "bdev"])?;
    let text = |key: &str, allowed: &str| {
        let value = section
            .read(key, allowed, |value| value.text().filter(|text| !text.is_empty()).map(String::from))?;
        value.ok_or_else(|| section.missing(key, "write config:file=FILE,bdev=NAME"))
    };
    let (file, name) = (text("file", "the path of a TOML file")?, text("bdev", "the name of a bdev")?);
    let stacks = stacks_from_file(Path::new(&file))?;
    let found = stacks.iter().find_map(|stack| Some((stack, stack.top.find(&name)?)));
    let Some((stack, top)) = found else {
        return Err(section.refuse_key("bdev", &format!("there is no bdev of this name in {file}")));
    };
    Ok(Stack { disk: None, read_only: stack.read_only, top: top.clone() })
}

fn section(kind: &str, keys: &str) -> Result<Section, Error> {
    let mut section = Section { source: Source::Flag("--target"), title: kind.into(), settings: Vec::new() };
    for pair in split_at_commas(keys).into_iter().filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
        let setting = setting(&key.replace('-', "_"), value);
        if !pair.contains('=') {
            return Err(section.refuse(&setting, "KEY=VALUE is wanted, with commas between"));
        }
        if setting.key == "type" || section.get(&setting.key).is_some() {
            return Err(section.refuse(&setting, "this key was given before"));
        }
        section.settings.push(setting);
    }
    Ok(section)
}

fn setting(key: &str, value: &str) -> Setting {
    Setting { key: key.into(), value: Value::Flag(value.into()), line: 0 }
}

/// Core numbers as flags spell them, none twice.
pub(crate) fn core_list(text: &str) -> Result<Vec<usize>, Error> {
    let settings = vec![setting("cores", text)];
    let section = Section { source: Source::Flags, title: String::new(), settings };
    Ok(check::cores(&section)?.unwrap_or_default())
}
