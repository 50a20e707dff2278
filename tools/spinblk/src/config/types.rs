//! The types of bdevs: which keys each has, and the road from its section to its checked form.

use super::setting::Section;
use super::{Backend, layer, leaf};
use crate::Error;

/// A type of bdev.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Type {
    Null,
    Malloc,
    Aio,
    Raid0,
    Crypto,
    Delay,
    Error,
}

/// Each type's name and keys; those that hold data come first.
const TYPES: [(&str, Type, &[&str]); 7] = [
    ("null", Type::Null, &["size", "block_size", "reads"]),
    ("malloc", Type::Malloc, &["size", "block_size"]),
    ("aio", Type::Aio, &["path", "direct", "poll", "block_size", "read_only", "create_size"]),
    ("raid0", Type::Raid0, &["children", "chunk"]),
    ("crypto", Type::Crypto, &["child", "key_file", "key_credential", "sector_size", "discard"]),
    ("delay", Type::Delay, &["child", "latency", "ops", "rate", "offset", "length", "seed"]),
    ("error", Type::Error, &["child", "error", "moved", "ops", "rate", "offset", "length", "seed"]),
];
/// So many of them, from the first on, hold data and stand on nothing.
const LEAVES: usize = 3;

/// All keys that a `[[bdev]]` may have.
pub(super) const BDEV_KEYS: &[&str] = &[
    "name",
    "type",
    "size",
    "block_size",
    "reads",
    "path",
    "direct",
    "poll",
    "read_only",
    "create_size",
    "child",
    "children",
    "chunk",
    "key_file",
    "key_credential",
    "sector_size",
    "discard",
    "latency",
    "error",
    "moved",
    "ops",
    "rate",
    "offset",
    "length",
    "seed",
];

/// The type of a `[[bdev]]`, whose keys are then known to fit it.
pub(super) fn of_bdev(section: &Section) -> Result<Type, Error> {
    refuse_keys_in_clear(section)?;
    section.only(BDEV_KEYS)?;
    let words = TYPES.map(|(name, kind, _)| (name, kind));
    let kind = section.choice("type", &words)?.ok_or_else(|| {
        let names = TYPES.map(|(name, ..)| name);
        section.missing("type", &format!("allowed: {}", names.join(", ")))
    })?;
    refuse_keys_of_other_types(section, kind, &["name", "type"])?;
    Ok(kind)
}

/// The type of a disk or target that says itself what holds its data.
pub(super) fn of_disk(section: &Section) -> Result<Type, Error> {
    let leaves = &TYPES[..LEAVES];
    let names = leaves.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
    let is_layer = |text: &str| TYPES[LEAVES..].iter().any(|(name, ..)| *name == text);
    if let Some(setting) = section.get("type")
        && setting.value.text().is_some_and(is_layer)
    {
        let why =
            format!("allowed: {names}; write a [[bdev]] of this type and give its name as bdev = \"NAME\"");
        return Err(section.refuse(setting, &why));
    }
    let words: Vec<(&str, Type)> = leaves.iter().map(|(name, kind, _)| (*name, *kind)).collect();
    let kind = section.choice("type", &words)?.ok_or_else(|| {
        let or_bdev = if section.is_in_file() { ", or bdev = \"NAME\" of a [[bdev]]" } else { "" };
        section.missing("type", &format!("allowed: {names}{or_bdev}"))
    })?;
    // A disk's own `read_only` is for guests, whatever the type.
    refuse_keys_of_other_types(section, kind, &["read_only"])?;
    Ok(kind)
}

/// The checked form of a section whose type is known.
pub(super) fn backend(
    section: &Section,
    name: &str,
    kind: Type,
    children: Vec<Backend>,
) -> Result<Backend, Error> {
    let kind = match kind {
        Type::Null | Type::Malloc | Type::Aio => leaf::read(section, kind)?,
        Type::Raid0 | Type::Crypto | Type::Delay | Type::Error => layer::read(section, kind, children)?,
    };
    Ok(Backend { name: name.into(), place: section.position(), kind })
}

/// Refuses a key that other types have and `kind` has not, except those that are `common` to all.
fn refuse_keys_of_other_types(section: &Section, kind: Type, common: &[&str]) -> Result<(), Error> {
    for setting in &section.settings {
        let key = setting.key.as_str();
        let has_it = |(_, _, keys): &&(&str, Type, &[&str])| keys.contains(&key);
        let owners: Vec<_> = TYPES.iter().filter(has_it).collect();
        let foreign = !owners.is_empty() && owners.iter().all(|(_, owner, _)| *owner != kind);
        if !foreign || common.contains(&key) {
            continue;
        }
        if (key, kind) == ("size", Type::Aio) {
            let why = "not for type aio, which has the size of its file; see `truncate`";
            return Err(section.refuse(setting, why));
        }
        let names: Vec<&str> = owners.iter().map(|(name, ..)| *name).collect();
        let types = if names.len() == 1 { "type" } else { "types" };
        return Err(section.refuse(setting, &format!("only for {types} {}", names.join(", "))));
    }
    Ok(())
}

/// Whether people may take this for where a key itself goes.
pub(super) fn is_secret(key: &str) -> bool {
    ["key", "passphrase", "password", "secret"].contains(&key)
}

/// A key in the file is refused without a word of it, for messages end in logs.
pub(super) fn refuse_keys_in_clear(section: &Section) -> Result<(), Error> {
    match section.settings.iter().find(|setting| is_secret(&setting.key)) {
        Some(setting) => {
            let why =
                "a key is never written here; give the file that holds it as key_file, or its key_credential";
            Err(section.refuse_unseen(setting, why))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_type_is_known() {
        let of_types = TYPES.iter().flat_map(|(_, _, keys)| keys.iter());
        assert!(of_types.clone().all(|key| BDEV_KEYS.contains(key)));
        assert!(BDEV_KEYS.iter().skip(2).all(|key| of_types.clone().any(|other| other == key)));
    }
}
