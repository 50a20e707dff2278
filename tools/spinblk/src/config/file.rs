//! A TOML text as sections of settings, with the line of each.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::setting::{Section, Setting, Source, Value, similar};
use crate::Error;

/// The two sections of a file: the reactors' and the disks'.
pub(super) struct Sections {
    pub(super) reactor: Section,
    pub(super) disks: Vec<Section>,
}

/// Reads a TOML text. `name` is the file's name in messages.
pub(super) fn sections(text: &str, name: &str) -> Result<Sections, Error> {
    let lines = Lines { text, name };
    let root = DeTable::parse(text).map_err(|e| {
        let line = lines.of(e.span().map_or(0, |span| span.start));
        Error::ConfigText { place: format!("{name}:{line}"), why: e.message().into() }
    })?;
    let mut reactor = lines.section("reactor".into(), 0, &DeTable::new());
    let mut disks = Vec::new();
    for (key, value) in root.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("reactor", DeValue::Table(table)) => {
                reactor = lines.section("reactor".into(), key.span().start, table);
            }
            ("disk", DeValue::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    disks.push(lines.disk(index, item)?);
                }
            }
            (other, _) => return Err(lines.bad_section(key, other)),
        }
    }
    Ok(Sections { reactor, disks })
}

struct Lines<'a> {
    text: &'a str,
    name: &'a str,
}

impl Lines<'_> {
    /// The line of a byte offset, counted from 1.
    fn of(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn section(&self, title: String, offset: usize, table: &DeTable<'_>) -> Section {
        let mut settings: Vec<Setting> = table
            .iter()
            .map(|(key, value)| Setting {
                key: key.get_ref().to_string(),
                value: plain(value.get_ref()),
                line: self.of(key.span().start),
            })
            .collect();
        // The table is sorted by key; people read from the top.
        settings.sort_by_key(|setting| setting.line);
        Section { source: Source::File(self.name.into(), self.of(offset)), title, settings }
    }

    fn disk(&self, index: usize, item: &Spanned<DeValue<'_>>) -> Result<Section, Error> {
        let offset = item.span().start;
        let DeValue::Table(table) = item.get_ref() else {
            let place = format!("{}:{}", self.name, self.of(offset));
            return Err(Error::ConfigText {
                place,
                why: "disk: a list of tables is wanted: [[disk]]".into(),
            });
        };
        let title = match table.get("name").and_then(|name| name.get_ref().as_str()) {
            Some(name) => format!("disk {}", name.escape_debug()),
            None => format!("disk number {}", index + 1),
        };
        Ok(self.section(title, offset, table))
    }

    fn bad_section(&self, key: &Spanned<std::borrow::Cow<'_, str>>, name: &str) -> Error {
        let place = format!("{}:{}", self.name, self.of(key.span().start));
        let name = name.escape_debug();
        let why = match name.to_string().as_str() {
            "reactor" => "reactor: a table is wanted: [reactor]".into(),
            "disk" => "disk: a list of tables is wanted: [[disk]], with two brackets".into(),
            other => match similar(other, &["reactor", "disk"]) {
                Some("disk") => format!("{name}: unknown section; did you mean [[disk]]?"),
                Some(_) => format!("{name}: unknown section; did you mean [reactor]?"),
                None => format!("{name}: unknown; allowed at the top: [reactor], [[disk]]"),
            },
        };
        Error::ConfigText { place, why }
    }
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other(number.to_string()),
        },
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Array(items) => Value::List(items.iter().map(|item| plain(item.get_ref())).collect()),
        DeValue::Float(number) => Value::Other(number.as_str().into()),
        DeValue::Datetime(date) => Value::Other(date.to_string()),
        DeValue::Table(_) => Value::Other("{...}".into()),
    }
}
