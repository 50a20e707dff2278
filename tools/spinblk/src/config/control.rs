//! Where the running process is found, and the log that it writes: the section `[control]`, and the flags that go before
//! it.

use std::path::Path;
use std::time::Duration;

use super::setting::Section;
use super::{Config, HistLogConfig, INTERVAL_FORMS, parse_interval};
use crate::Error;
use crate::control::{Endpoints, METRICS_FORMS, MetricsAddress, SOCKET_FORMS, socket_path};

const KEYS: &[&str] = &["socket", "metrics", "hist_log", "hist_interval"];
/// The interval of a log whose interval is not told.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn endpoints(section: &Section) -> Result<Endpoints, Error> {
    section.only(KEYS)?;
    Ok(Endpoints {
        socket: section.read("socket", SOCKET_FORMS, |value| value.text().and_then(socket_path))?,
        metrics: section
            .read("metrics", METRICS_FORMS, |value| value.text().and_then(MetricsAddress::parse))?,
    })
}

pub(super) fn hist_log(section: &Section) -> Result<Option<HistLogConfig>, Error> {
    let path = |text: &str| (!text.is_empty()).then(|| text.into());
    let path = section.read("hist_log", "the path of a file", |value| value.text().and_then(path))?;
    let interval =
        section.read("hist_interval", INTERVAL_FORMS, |value| parse_interval(value.text()?).ok())?;
    if path.is_none() && interval.is_some() {
        return Err(section.refuse_key("hist_interval", "there is no log; name it with hist_log"));
    }
    Ok(path.map(|path| HistLogConfig { path, interval: interval.unwrap_or(DEFAULT_INTERVAL) }))
}

impl Config {
    /// Takes the flag `--hist-log`, where it is given.
    pub(crate) fn set_hist_log(&mut self, path: Option<&Path>) {
        let interval = self.hist_log.as_ref().map_or(DEFAULT_INTERVAL, |log| log.interval);
        if let Some(path) = path {
            self.hist_log = Some(HistLogConfig { path: path.into(), interval });
        }
    }
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
    use std::time::Duration;

    use crate::config::{Config, HistLogConfig};
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
    fn a_log_has_a_file_and_an_interval() {
        let log = |section: &str| {
            let mut config = Config::from_toml(&format!("{DISK}{section}"), "s.toml").unwrap();
            config.set_hist_log(None);
            config.hist_log
        };
        let want =
            |path: &str, ms| Some(HistLogConfig { path: path.into(), interval: Duration::from_millis(ms) });
        assert_eq!(log("[control]\nsocket = \"/run/c.sock\"\n"), None);
        assert_eq!(log("[control]\nhist_log = \"/x.hlog\"\n"), want("/x.hlog", 1000));
        let both = "[control]\nhist_log = \"/x.hlog\"\nhist_interval = \"250ms\"\n";
        assert_eq!(log(both), want("/x.hlog", 250));
        let mut config = Config::from_toml(&format!("{DISK}{both}"), "s.toml").unwrap();
        config.set_hist_log(Some("/y.hlog".as_ref()));
        assert_eq!(config.hist_log, want("/y.hlog", 250), "the flag names another file");
    }

    #[test]
    fn refusals_name_the_place() {
        let cases = [
            (
                "[control]\nhist_log = \"\"\n",
                "s.toml:8: control: hist_log = \"\": allowed: the path of a file",
            ),
            (
                "[control]\nhist_log = \"x\"\nhist_interval = \"1us\"\n",
                "s.toml:9: control: hist_interval = \"1us\": allowed: a whole number with ms or s",
            ),
            ("[control]\nhist_interval = \"1s\"\n", "s.toml:8: control: hist_interval"),
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
