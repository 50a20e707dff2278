//! A TOML text as sections of settings, with the line of each.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::setting::{Section, Setting, Source, Value, similar};
use crate::Error;

/// The sections of a file: the reactors', that of the control socket, the bdevs' and the disks'.
pub(super) struct Sections {
    pub(super) reactor: Section,
    pub(super) control: Section,
    pub(super) bdevs: Vec<Section>,
    pub(super) disks: Vec<Section>,
}

/// Reads a TOML text. `name` is the file's name in messages.
pub(super) fn sections(text: &str, name: &str) -> Result<Sections, Error> {
    let lines = Lines::new(text, name);
    let root = DeTable::parse(text).map_err(|e| {
        let line = lines.of(e.span().map_or(0, |span| span.start));
        Error::ConfigText { place: format!("{name}:{line}"), why: e.message().into() }
    })?;
    let mut reactor = lines.section("reactor".into(), 0, &DeTable::new());
    let mut control = lines.section("control".into(), 0, &DeTable::new());
    let (mut bdevs, mut disks) = (Vec::new(), Vec::new());
    for (key, value) in root.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("reactor", DeValue::Table(table)) => {
                reactor = lines.section("reactor".into(), key.span().start, table);
            }
            ("control", DeValue::Table(table)) => {
                control = lines.section("control".into(), key.span().start, table);
            }
            ("bdev", DeValue::Array(items)) => bdevs = lines.list("bdev", items)?,
            ("disk", DeValue::Array(items)) => disks = lines.list("disk", items)?,
            (other, _) => return Err(lines.bad_section(key, other)),
        }
    }
    Ok(Sections { reactor, control, bdevs, disks })
}

struct Lines<'a> {
    name: &'a str,
    /// The offset behind each line's end, in order: looking for lines in the text would take its square in time.
    ends: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &str, name: &'a str) -> Self {
        Self { name, ends: text.match_indices('\n').map(|(at, _)| at + 1).collect() }
    }

    /// The line of a byte offset, counted from 1.
    fn of(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|end| *end <= offset)
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

    /// The tables of a list, each with its name or number as its title.
    fn list(&self, what: &str, items: &[Spanned<DeValue<'_>>]) -> Result<Vec<Section>, Error> {
        items.iter().enumerate().map(|(index, item)| self.item(what, index, item)).collect()
    }

    fn item(&self, what: &str, index: usize, item: &Spanned<DeValue<'_>>) -> Result<Section, Error> {
        let offset = item.span().start;
        let DeValue::Table(table) = item.get_ref() else {
            let place = format!("{}:{}", self.name, self.of(offset));
            let why = format!("{what}: a list of tables is wanted: [[{what}]]");
            return Err(Error::ConfigText { place, why });
        };
        let title = match table.get("name").and_then(|name| name.get_ref().as_str()) {
            Some(name) => format!("{what} {}", name.escape_debug()),
            None => format!("{what} number {}", index + 1),
        };
        Ok(self.section(title, offset, table))
    }

    fn bad_section(&self, key: &Spanned<std::borrow::Cow<'_, str>>, name: &str) -> Error {
        let place = format!("{}:{}", self.name, self.of(key.span().start));
        let name = name.escape_debug();
        let why = match name.to_string().as_str() {
            "reactor" => "reactor: a table is wanted: [reactor]".into(),
            "control" => "control: a table is wanted: [control]".into(),
            list @ ("bdev" | "disk") => {
                format!("{list}: a list of tables is wanted: [[{list}]], with two brackets")
            }
            other => match similar(other, &["reactor", "control", "bdev", "disk"]) {
                Some(table @ ("reactor" | "control")) => {
                    format!("{name}: unknown section; did you mean [{table}]?")
                }
                Some(list) => format!("{name}: unknown section; did you mean [[{list}]]?"),
                None => {
                    format!("{name}: unknown; allowed at the top: [reactor], [control], [[bdev]], [[disk]]")
                }
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
        DeValue::Float(number) => Value::Float(number.as_str().into()),
        DeValue::Datetime(date) => Value::Other(date.to_string()),
        DeValue::Table(_) => Value::Other("{...}".into()),
    }
}
