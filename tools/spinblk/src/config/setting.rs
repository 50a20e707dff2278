//! Settings as they were written, before anything is known of what they mean.
//!
//! A configuration file and command-line flags both become [`Section`]s of [`Setting`]s; from here on there is one
//! road, so both get the same checks, and messages in the words of whoever wrote them.

use std::fmt;

use crate::Error;

/// Core numbers above this are a mistake (and more than the kernel's CPU sets that are used here hold).
const LAST_CORE: usize = 1023;
/// A name is taken for a misspelling of another one from this likeness on (1 is equal).
const LIKENESS: f64 = 0.75;
/// Longer words are no misspellings. Comparing takes time in proportion to both lengths, and a file may be hostile.
const MAX_LIKE_BYTES: usize = 64;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    /// As it was written.
    Float(String),
    Boolean(bool),
    List(Vec<Value>),
    /// Text of a flag, which has no type of its own yet.
    Flag(String),
    /// Something that no setting takes: a date, a table.
    Other(String),
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Flag(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Flag(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A number with or without a fraction.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Float(text) | Self::Flag(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A list of texts; in a flag `a+b`.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        match self {
            Self::List(values) => values.iter().map(|value| value.text().map(String::from)).collect(),
            Self::Flag(text) => Some(text.split('+').map(String::from).collect()),
            _ => None,
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Boolean(yes) => Some(*yes),
            Self::Flag(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Core numbers: a list of them, or in a flag `1,2`, `1+2`, `1-4`.
    pub(super) fn cores(&self) -> Option<Vec<usize>> {
        let core = |number: &str| number.parse().ok().filter(|&core: &usize| core <= LAST_CORE);
        match self {
            Self::List(values) => values.iter().map(|v| core(&v.integer()?.to_string())).collect(),
            Self::Flag(text) => {
                let mut cores = Vec::new();
                for part in text.split([',', '+']) {
                    let (first, last) = part.split_once('-').unwrap_or((part, part));
                    cores.extend(core(first)?..=core(last)?);
                }
                Some(cores)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Boolean(yes) => write!(f, "{yes}"),
            Self::List(values) => {
                let values: Vec<String> = values.iter().map(Self::to_string).collect();
                write!(f, "[{}]", values.join(", "))
            }
            Self::Float(text) | Self::Flag(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

/// One setting. Keys are spelled with `_` here, whatever the source spells.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Value,
    /// Line in the file; 0 for flags.
    pub(super) line: usize,
}

/// Where a section was written, which decides the words of messages.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A file, by its name, and the section's first line.
    File(String, usize),
    /// A flag that holds `key=value` pairs: `--disk`.
    Flag(&'static str),
    /// Flags of their own, one for each key: `--cores`.
    Flags,
}

/// A group of settings: the reactors', one bdev's or one disk's.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) source: Source,
    /// What it describes: `reactor`, `bdev r0`, `disk d0`, `disk number 2`.
    pub(super) title: String,
    pub(super) settings: Vec<Setting>,
}

impl Section {
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// Reads the value of `key` if it is there. `read` answers `None` for what is not `allowed`.
    pub(super) fn read<T>(
        &self,
        key: &str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(setting) = self.get(key) else { return Ok(None) };
        match read(&setting.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.refuse(setting, &format!("allowed: {allowed}"))),
        }
    }

    /// Reads one of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, Error> {
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.read(key, &allowed.join(", "), |value| {
            let text = value.text()?;
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning)
        })
    }

    /// Reads a yes or no, which is no when it is not there.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Error> {
        Ok(self.read(key, "true, false", Value::boolean)?.unwrap_or(false))
    }

    /// Refuses a key that is not among `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Error> {
        let Some(setting) = self.settings.iter().find(|setting| !known.contains(&setting.key.as_str()))
        else {
            return Ok(());
        };
        let meant = similar(&setting.key, known);
        let why = match meant {
            Some(key) => format!("unknown key; did you mean {}?", self.spell(key)),
            None => {
                let keys: Vec<String> = known.iter().map(|key| self.spell(key)).collect();
                format!("unknown key; allowed: {}", keys.join(", "))
            }
        };
        Err(self.refuse(setting, &why))
    }

    /// The error for a setting that is there and wrong.
    pub(super) fn refuse(&self, setting: &Setting, why: &str) -> Error {
        let what = match &self.source {
            Source::File(..) => format!("{} = {}", setting.key, setting.value),
            Source::Flag(_) => format!("{}={}", self.spell(&setting.key), setting.value),
            Source::Flags => format!("--{} {}", self.spell(&setting.key), setting.value),
        };
        Error::Setting { place: self.place(setting.line), what, why: why.into() }
    }

    /// The error for a setting whose value must not be shown.
    pub(super) fn refuse_unseen(&self, setting: &Setting, why: &str) -> Error {
        Error::Setting { place: self.place(setting.line), what: self.spell(&setting.key), why: why.into() }
    }

    /// The error for a key that is wrong, or missing where its default is wrong.
    pub(super) fn refuse_key(&self, key: &str, why: &str) -> Error {
        match self.get(key) {
            Some(setting) => self.refuse(setting, why),
            None => self.missing(key, why),
        }
    }

    /// The error for a setting that is not there.
    pub(super) fn missing(&self, key: &str, why: &str) -> Error {
        let what = match &self.source {
            Source::File(..) | Source::Flag(_) => self.spell(key),
            Source::Flags => format!("--{}", self.spell(key)),
        };
        let place = self.place(0);
        Error::Setting { place, what, why: format!("is missing; {why}") }
    }

    pub(super) fn is_in_file(&self) -> bool {
        matches!(self.source, Source::File(..))
    }

    /// Where the section begins, `file:line`; empty for flags.
    pub(super) fn position(&self) -> String {
        match &self.source {
            Source::File(name, first) => format!("{name}:{first}"),
            Source::Flag(_) | Source::Flags => String::new(),
        }
    }

    /// Where a message points to: `file:line: disk d0: `, `--disk d0: ` or nothing. Line 0 stands for the section.
    fn place(&self, line: usize) -> String {
        match &self.source {
            Source::File(name, first) => {
                let line = if line == 0 { *first } else { line };
                format!("{name}:{line}: {}: ", self.title)
            }
            Source::Flag(flag) => format!("{flag} {}: ", self.title),
            Source::Flags => String::new(),
        }
    }

    /// The key as the source spells keys.
    fn spell(&self, key: &str) -> String {
        match self.source {
            Source::File(..) => key.into(),
            Source::Flag(_) | Source::Flags => key.replace('_', "-"),
        }
    }
}

/// The name among `known` that `word` looks most like, if any.
pub(super) fn similar<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > MAX_LIKE_BYTES {
        return None;
    }
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKENESS).then_some(best)
}
