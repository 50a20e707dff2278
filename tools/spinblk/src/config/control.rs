//! Where the running process is found: the section `[control]`, and the flags that go before it.

use super::setting::Section;
use crate::Error;
use crate::control::{Endpoints, METRICS_FORMS, MetricsAddress, SOCKET_FORMS, socket_path};

const KEYS: &[&str] = &["socket", "metrics"];

pub(super) fn endpoints(section: &Section) -> Result<Endpoints, Error> {
    section.only(KEYS)?;
    Ok(Endpoints {
        socket: section.read("socket", SOCKET_FORMS, |value| value.text().and_then(socket_path))?,
        metrics: section
            .read("metrics", METRICS_FORMS, |value| value.text().and_then(MetricsAddress::parse))?,
    })
}

impl Endpoints {
    /// Takes the flags `--control` and `--metrics`, where they are given.
    pub(crate) fn set(&mut self, socket: Option<&str>, metrics: Option<&str>) -> Result<(), Error> {
        let wrong = |flag: &str, text: &str, forms| Error::Setting {
            place: String::new(),
            what: format!("{flag} {text}"),
            why: format!("wanted: {forms}"),
        };
        if let Some(text) = socket {
            self.socket = Some(socket_path(text).ok_or_else(|| wrong("--control", text, SOCKET_FORMS))?);
        }
        if let Some(text) = metrics {
            let address = MetricsAddress::parse(text);
            self.metrics = Some(address.ok_or_else(|| wrong("--metrics", text, METRICS_FORMS))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::control::{Endpoints, MetricsAddress};

    const DISK: &str = "[reactor]\ncores = [1]\n[[disk]]\nname = \"d0\"\ntype = \"null\"\nsize = \"1M\"\n";

    fn endpoints(section: &str) -> Result<Endpoints, String> {
        let config = Config::from_toml(&format!("{DISK}{section}"), "s.toml");
        config.map(|config| config.control).map_err(|e| e.one_line())
    }

    #[test]
    fn nothing_listens_unless_told() {
        assert_eq!(endpoints(""), Ok(Endpoints::default()));
        assert_eq!(endpoints("[control]\n"), Ok(Endpoints::default()));
        let want = Endpoints {
            socket: Some("/run/c.sock".into()),
            metrics: Some(MetricsAddress::Tcp("[::1]:9500".parse().unwrap())),
        };
        assert_eq!(
            endpoints("[control]\nsocket = \"/run/c.sock\"\nmetrics = \"[::1]:9500\"\n"),
            Ok(want.clone())
        );
        let (mut set, other) = (want.clone(), Some(MetricsAddress::Unix("/run/m".into())));
        set.set(None, Some("unix:/run/m")).unwrap();
        assert_eq!(set, Endpoints { metrics: other, ..want });
    }

    #[test]
    fn refusals_name_the_place() {
        let cases = [
            ("[control]\nsocket = 5\n", "s.toml:8: control: socket = 5: allowed: the path of a unix socket"),
            ("[control]\nsocket = \"\"\n", "s.toml:8: control: socket = \"\": allowed: the path"),
            ("[control]\nmetrics = \"9500\"\n", "allowed: ADDRESS:PORT such as 127.0.0.1:9500"),
            ("[control]\nsockets = \"a\"\n", "s.toml:8: control: sockets"),
            ("[[control]]\n", "s.toml:7: control: a table is wanted: [control]"),
            ("[contrl]\n", "s.toml:7: contrl: unknown section; did you mean [control]?"),
        ];
        for (section, want) in cases {
            let line = endpoints(section).unwrap_err();
            assert!(line.contains(want), "{line}");
        }
    }
}
