//! A configuration that changes while it is served: a section more or one less, and all of it checked again.
//!
//! ```text
//!   Config ──write──► sections ──one more, one less──► check ──► the next Config, or the refusal that a file would get
//! ```
//! Nothing here touches the machine, and what was refused has changed nothing.

use super::file::{self, Sections};
use super::setting::{Section, Setting, Source, Value, similar};
use super::{Backend, BackendKind, Config, check, flags, write};
use crate::Error;
use crate::api::Given;

/// Bdevs, and disks, that a running process may come to have.
const MAX_SECTIONS: usize = 4096;
/// What stands for the file in messages about what a client sent.
const SOURCE: &str = "request";

impl Config {
    /// With one more disk, the last; in TOML the bdevs that it stands on may come with it.
    ///
    /// # Errors
    /// Those of [`Config::from_toml`].
    pub fn with_disk(&self, given: &Given) -> Result<Self, Error> {
        let new = read(given, "disk")?;
        if new.disks.len() != 1 {
            return Err(Error::Usage(format!("one [[disk]] is wanted, not {}", new.disks.len())));
        }
        self.with(new)
    }

    /// With more bdevs, which no disk stands on yet.
    ///
    /// # Errors
    /// Those of [`Config::from_toml`].
    pub fn with_bdevs(&self, given: &Given) -> Result<(Self, Vec<String>), Error> {
        let new = read(given, "bdev")?;
        if new.bdevs.is_empty() || !new.disks.is_empty() {
            return Err(Error::Usage("[[bdev]] is wanted, and no [[disk]]".into()));
        }
        let name = |bdev: &Section| bdev.get("name").and_then(|name| name.value.text()).map(String::from);
        let names = new.bdevs.iter().filter_map(name).collect();
        Ok((self.with(new)?, names))
    }

    /// Without a disk. The bdevs that it stands on stay, for others to use.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is none of this name.
    pub fn without_disk(&self, name: &str) -> Result<Self, Error> {
        let mut sections = write::sections(self);
        let names: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
        let at = names.iter().position(|other| *other == name);
        sections.disks.remove(at.ok_or_else(|| nothing_of("disk", name, &names))?);
        check::config(&sections)
    }

    /// Without a bdev that nobody stands on.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is none, or who stands on it.
    pub fn without_bdev(&self, name: &str) -> Result<Self, Error> {
        let in_use =
            |user: String| Err(Error::Usage(format!("bdev {name} is used by {user}; remove that first")));
        let over_bdevs = self.disks.iter().filter(|disk| disk.over_bdev);
        if let Some(disk) = over_bdevs.clone().find(|disk| disk.backend.name == name) {
            return in_use(format!("disk {}", disk.name));
        }
        let tops: Vec<&Backend> = over_bdevs.map(|disk| &disk.backend).chain(&self.unused).collect();
        if let Some(parent) = tops.iter().find_map(|top| parent_of(top, name)) {
            return in_use(format!("bdev {}", parent.name));
        }
        let names: Vec<&str> = self.unused.iter().map(|top| top.name.as_str()).collect();
        if !names.contains(&name) {
            return Err(nothing_of("unused bdev", name, &names));
        }
        let mut sections = write::sections(self);
        sections.bdevs.retain(|bdev| bdev.get("name").and_then(|other| other.value.text()) != Some(name));
        check::config(&sections)
    }

    fn with(&self, new: Sections) -> Result<Self, Error> {
        let mut sections = write::sections(self);
        sections.bdevs.extend(new.bdevs);
        sections.disks.extend(new.disks);
        if sections.bdevs.len().max(sections.disks.len()) > MAX_SECTIONS {
            return Err(Error::Usage(format!("more than {MAX_SECTIONS} bdevs or disks; remove some first")));
        }
        let next = check::config(&sections)?;
        next.to_loadable_toml()?;
        Ok(next)
    }
}

impl Backend {
    /// Takes on the sizes that an open stack of this shape has now.
    pub(crate) fn set_sizes(&mut self, bdev: &dyn spinblk_bdev::Bdev) {
        let now = bdev.info().size_bytes();
        match &mut self.kind {
            BackendKind::Null { size_bytes, .. } | BackendKind::Malloc { size_bytes, .. } => {
                *size_bytes = now;
            }
            // A file that has grown is there, and has whatever length it has.
            BackendKind::Aio { create_bytes, .. } => {
                *create_bytes = create_bytes.filter(|bytes| *bytes == now);
            }
            BackendKind::Raid0 { children, .. } => {
                children.iter_mut().zip(bdev.children()).for_each(|(child, open)| child.set_sizes(&**open));
            }
            BackendKind::Crypto { child, .. }
            | BackendKind::Delay { child, .. }
            | BackendKind::Error { child, .. } => {
                bdev.children().iter().take(1).for_each(|open| child.set_sizes(&**open));
            }
        }
    }
}

fn parent_of<'a>(top: &'a Backend, name: &str) -> Option<&'a Backend> {
    let is_parent = top.children().iter().any(|child| child.name == name);
    if is_parent { Some(top) } else { top.children().iter().find_map(|child| parent_of(child, name)) }
}

pub(crate) fn nothing_of(what: &str, name: &str, names: &[&str]) -> Error {
    let shown: String = name.chars().take(64).collect();
    Error::Usage(match (similar(name, names), names.is_empty()) {
        (Some(other), _) => format!("there is no {what} {shown}; did you mean {other}?"),
        (None, true) => format!("there is no {what} {shown}; there is none"),
        (None, false) => format!("there is no {what} {shown}; there are: {}", names.join(", ")),
    })
}

/// What a client sent, as sections; keys and flags are one section of `what`.
fn read(given: &Given, what: &'static str) -> Result<Sections, Error> {
    let section = match given {
        Given::Toml(text) => {
            let sections = file::sections(text, SOURCE)?;
            return match sections.reactor.settings.is_empty() && sections.control.settings.is_empty() {
                true => Ok(sections),
                false => {
                    Err(Error::Usage("[reactor] and [control] are fixed at the start; leave them out".into()))
                }
            };
        }
        Given::Flags(text) => flags::pairs(what, 0, text)?,
        Given::Keys(keys) => from_json(keys, what),
    };
    let mut sections = file::sections("", SOURCE)?;
    if what == "disk" { &mut sections.disks } else { &mut sections.bdevs }.push(section);
    Ok(sections)
}

fn from_json(keys: &serde_json::Map<String, serde_json::Value>, what: &str) -> Section {
    let setting = |(key, value): (&String, &serde_json::Value)| Setting {
        key: key.clone(),
        value: plain(value),
        line: 1,
    };
    let title = match keys.get("name").and_then(|name| name.as_str()) {
        Some(name) => format!("{what} {}", name.escape_debug()),
        None => format!("{what} number 1"),
    };
    Section { source: Source::File(SOURCE.into(), 1), title, settings: keys.iter().map(setting).collect() }
}

/// The recursion is as deep as the request, which whoever reads requests bounds.
fn plain(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::String(text) => Value::Text(text.clone()),
        Json::Bool(yes) => Value::Boolean(*yes),
        Json::Array(values) => Value::List(values.iter().map(plain).collect()),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None if number.is_f64() => Value::Float(number.to_string()),
            None => Value::Other(number.to_string()),
        },
        Json::Null => Value::Other("null".into()),
        Json::Object(_) => Value::Other("{...}".into()),
    }
}

#[cfg(test)]
mod tests;
