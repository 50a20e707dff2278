//! The program's log on stderr, and the knob that says what is in it.

use std::fmt;
use std::io::Stderr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Formatter;
use tracing_subscriber::fmt::format::{DefaultFields, Format};
use tracing_subscriber::reload;

use crate::Error;

type Log = Formatter<DefaultFields, Format, fn() -> Stderr>;

/// What is logged, to be changed while the program runs. The default one has no log.
#[derive(Clone, Default)]
pub struct LogFilter(Option<reload::Handle<EnvFilter, Log>>);

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.get()).finish()
    }
}

impl LogFilter {
    /// Starts the log. Where another was started before, that one serves and cannot be changed from here.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no filter.
    pub fn start(filter: &str) -> Result<Self, Error> {
        let filter = parse(filter).map_err(|why| Error::Usage(format!("--log {filter}: {why}")))?;
        let stderr: fn() -> Stderr = std::io::stderr;
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_filter_reloading();
        let handle = log.reload_handle();
        Ok(Self(log.try_init().ok().map(|()| handle)))
    }

    /// What is logged; `None` without a log.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.as_ref()?.with_current(ToString::to_string).ok()
    }

    /// Logs what `filter` says from now on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let handle = self.0.as_ref().ok_or("there is no log")?;
        handle.reload(parse(filter)?).map_err(|e| e.to_string())
    }
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    // Without patterns for fields' values: compiling those takes whatever time and memory their author likes.
    EnvFilter::builder().with_regex(false).parse(filter).map_err(|e| {
        format!("{e}; allowed: error, warn, info, debug, trace, or CRATE=LEVEL with commas between")
    })
}
