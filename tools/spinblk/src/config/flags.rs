//! Command-line flags as sections of settings.

use super::file::Sections;
use super::setting::{Section, Setting, Source, Value};
use super::types::is_secret;
use crate::Error;

/// What the command line says about reactors and disks, as it was typed.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--cores`: `1,2` or `1-4`.
    pub cores: Option<String>,
    /// `--hugepages`.
    pub hugepages: Option<String>,
    /// `--lock-memory`.
    pub lock_memory: Option<String>,
    /// Each `--disk`: `name=d0,type=malloc,size=256MiB`. A comma in a value is written twice.
    pub disks: Vec<String>,
}

pub(super) fn sections(flags: &Flags) -> Result<Sections, Error> {
    let mut settings = Vec::new();
    let reactor =
        [("cores", &flags.cores), ("hugepages", &flags.hugepages), ("lock_memory", &flags.lock_memory)];
    for (key, value) in reactor {
        if let Some(text) = value {
            settings.push(Setting { key: key.into(), value: Value::Flag(text.clone()), line: 0 });
        }
    }
    let reactor = Section { source: Source::Flags, title: "reactor".into(), settings };
    let disks = flags
        .disks
        .iter()
        .enumerate()
        .map(|(index, text)| pairs("--disk", index, text))
        .collect::<Result<_, _>>()?;
    // Its flags come on top of a file, too, so they are not read here.
    let control = Section { source: Source::Flags, title: "control".into(), settings: Vec::new() };
    Ok(Sections { reactor, control, bdevs: Vec::new(), disks })
}

/// The pairs behind `flag`, of which this is one of several.
pub(super) fn pairs(flag: &'static str, index: usize, text: &str) -> Result<Section, Error> {
    let mut section =
        Section { source: Source::Flag(flag), title: format!("number {}", index + 1), settings: Vec::new() };
    let pairs = split_at_commas(text);
    if let Some(name) = pairs.iter().find_map(|pair| pair.strip_prefix("name=")) {
        section.title = name.escape_debug().to_string();
    }
    for pair in pairs {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) => (key.replace('-', "_"), value),
            None => (pair.clone(), ""),
        };
        let setting = Setting { key, value: Value::Flag(value.into()), line: 0 };
        if !pair.contains('=') {
            return Err(section.refuse(&setting, "KEY=VALUE is wanted, with commas between"));
        }
        if section.get(&setting.key).is_some() {
            let why = "this key was given before";
            return Err(match is_secret(&setting.key) {
                true => section.refuse_unseen(&setting, why),
                false => section.refuse(&setting, why),
            });
        }
        section.settings.push(setting);
    }
    Ok(section)
}

/// Splits at single commas; two commas stand for one in a value (a file's name may have one).
pub(super) fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_split_and_double_commas_do_not() {
        assert_eq!(split_at_commas("a=1,b=2"), ["a=1", "b=2"]);
        assert_eq!(split_at_commas("path=/x,,y,b=2"), ["path=/x,y", "b=2"]);
        assert_eq!(split_at_commas(""), [""]);
    }
}
