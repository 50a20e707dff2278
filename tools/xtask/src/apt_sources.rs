//! The machine's own apt sources, and the backports source derived from them.
//!
//! No archive is named in this repository: backports live at the same URI as the suite they belong to, so the
//! machine's own entry says where to look, mirrors and snapshots included.

use std::fmt::Write;

const DEFAULT_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where one suite comes from.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    uri: String,
    keyring: Option<String>,
}

/// A source for `CODENAME-backports` in deb822 form, unless the given files have none for `CODENAME` itself.
pub(crate) fn backports_source<'a>(
    codename: &str,
    files: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let origin = files
        .into_iter()
        .find_map(|text| find_deb822(codename, text).or_else(|| find_line(codename, text)))?;
    let keyring = origin.keyring.unwrap_or_else(|| DEFAULT_KEYRING.to_owned());
    let mut source = String::new();
    let _ = writeln!(source, "Types: deb\nURIs: {}\nSuites: {codename}-backports", origin.uri);
    let _ = writeln!(source, "Components: main\nSigned-By: {keyring}");
    Some(source)
}

/// Looks through stanzas of `Key: value` lines.
fn find_deb822(codename: &str, text: &str) -> Option<Origin> {
    let stanzas = text.split("\n\n");
    let fitting = stanzas.filter(|stanza| field(stanza, "Enabled").is_none_or(|value| value != "no"));
    fitting.into_iter().find_map(|stanza| {
        let words = |key| field(stanza, key).map(|value| value.split_whitespace().collect::<Vec<_>>());
        if !words("Types")?.contains(&"deb") || !words("Suites")?.contains(&codename) {
            return None;
        }
        let keyring = field(stanza, "Signed-By").filter(|value| value.starts_with('/')).map(str::to_owned);
        Some(Origin { uri: (*words("URIs")?.first()?).to_owned(), keyring })
    })
}

fn field<'a>(stanza: &'a str, key: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(key).then(|| value.trim())
    })
}

/// Looks through lines of `deb [options] URI suite components`.
fn find_line(codename: &str, text: &str) -> Option<Origin> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inside) => inside.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let keyring = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        (suite == codename).then(|| Origin { uri: uri.to_owned(), keyring: keyring.map(str::to_owned) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\n# a comment\nURIs: https://mirror.example/debian-security\nSuites: bookworm-security\n\
        Components: main\n\nTypes: deb\nURIs: https://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
        Components: main\nSigned-By: /usr/share/keyrings/own.gpg\n";

    #[test]
    fn derives_from_deb822() {
        let source = backports_source("bookworm", [DEB822]).unwrap();
        assert_eq!(
            source,
            "Types: deb\nURIs: https://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n\
             Signed-By: /usr/share/keyrings/own.gpg\n"
        );
    }

    #[test]
    fn derives_from_one_line_form() {
        let list = "# deb cdrom:[x]/ bookworm main\ndeb-src http://a.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://b.example/debian bookworm main contrib\n";
        let source = backports_source("bookworm", ["", list]).unwrap();
        assert!(source.contains("URIs: http://b.example/debian\n") && source.contains("Signed-By: /k.gpg\n"));
        let plain = backports_source("bookworm", ["deb http://c.example/debian bookworm main"]).unwrap();
        assert!(plain.contains(DEFAULT_KEYRING));
    }

    #[test]
    fn finds_nothing_where_nothing_is() {
        assert_eq!(backports_source("trixie", [DEB822]), None);
    }
}
