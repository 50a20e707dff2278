//! A [`Config`] as the text of a file that gives it again.

use std::fmt::Write;

use super::setting::{Section, Value};
use super::{Config, MAX_FILE_BYTES, write};
use crate::Error;

impl Config {
    /// The text of a file with this configuration, flags and later changes included. Keys are named by their files, as they
    /// were given; no secret is in it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let sections = write::sections(self);
        let mut text = String::new();
        push(&mut text, "[reactor]", &sections.reactor);
        if !sections.control.settings.is_empty() {
            push(&mut text, "[control]", &sections.control);
        }
        sections.bdevs.iter().for_each(|bdev| push(&mut text, "[[bdev]]", bdev));
        sections.disks.iter().for_each(|disk| push(&mut text, "[[disk]]", disk));
        text
    }

    /// The same, if it is of a length that a file may have.
    ///
    /// # Errors
    /// [`Error::Usage`]: it is too long.
    pub(crate) fn to_loadable_toml(&self) -> Result<String, Error> {
        let text = self.to_toml();
        if text.len() as u64 > MAX_FILE_BYTES {
            let len_bytes = text.len();
            return Err(Error::Usage(format!(
                "the configuration would have {len_bytes} bytes; at most {MAX_FILE_BYTES} can be loaded again; remove some \
                 bdevs or disks first"
            )));
        }
        Ok(text)
    }
}

fn push(text: &mut String, header: &str, section: &Section) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(header);
    text.push('\n');
    for setting in &section.settings {
        // Into a string, which takes all.
        let _ = writeln!(text, "{} = {}", setting.key, show(&setting.value));
    }
}

/// A value as TOML has it.
fn show(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Flag(text) => toml::Value::String(text.clone()).to_string(),
        Value::List(values) => format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Integer(_) | Value::Boolean(_) | Value::Float(_) | Value::Other(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
