//! Prometheus' text format 0.0.4: families of samples with labels.

use std::fmt::Write;

/// Name and value of each label of a sample.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text that grows.
#[derive(Debug, Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    /// Begins a family; its samples come next and together.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string never fails.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escape(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

/// A label's value between its quotes.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Nanoseconds as seconds, exactly.
pub(super) fn seconds(ns: u64) -> String {
    let (whole, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{rest:09}").trim_end_matches('0').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.sample("a", &[("disk", "a\"b\\c\nd"), ("op", "read")], 5);
        text.sample("b", &[], 0);
        assert_eq!(text.0, "a{disk=\"a\\\"b\\\\c\\nd\",op=\"read\"} 5\nb 0\n");
    }

    #[test]
    fn seconds_are_exact() {
        let cases = [
            (0, "0"),
            (1, "0.000000001"),
            (1023, "0.000001023"),
            (1_500_000_000, "1.5"),
            (2_000_000_000, "2"),
            (u64::MAX, "18446744073.709551615"),
        ];
        for (ns, want) in cases {
            assert_eq!(seconds(ns), want);
        }
    }
}
