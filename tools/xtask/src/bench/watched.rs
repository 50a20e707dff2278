//! One run of a client: warm-up, a look at the noise, what is measured, another look, its end.
//!
//! ```text
//!   client ─► warm-up ─► look ─── measured ─── look ─► end of client
//! ```

use super::noise::{Look, Noise, Role};
use super::pinned::{Pinned, pause};
use crate::error::{Error, Result};
use crate::process::words;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Load before measuring: queues are set up, caches and branch predictors have seen it all.
pub(super) const WARM_UP: Duration = Duration::from_millis(500);
/// The looks keep this distance from the ends of what is measured.
const MARGIN: Duration = Duration::from_millis(50);
/// What a client may take besides measuring.
const CLIENT_EXTRA_S: u64 = 60;
const CORE_LIMIT: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_secs(2);
/// What the kernel calls the threads that io_uring gives blocking work to; they belong to the process.
const IO_WORKER: &str = "iou-wrk-";

/// A client that has ended well.
pub(super) struct Watched {
    pub(super) client: Pinned,
    pub(super) noise: Noise,
    /// Workers of io_uring in the process under test, towards the end. They outlive their work by seconds.
    pub(super) io_workers: usize,
}

/// Runs a client that warms up and then measures for `time`. The process under test is the server, where there is one.
/// `None` if another poller has the client's core.
pub(super) fn watch(
    line: &Command,
    cores: &[usize],
    server: Option<u32>,
    time: Duration,
    folder: &Path,
) -> Result<Option<Watched>> {
    let mut client = Pinned::start(line, None, "client", folder)?;
    let server = server.map(|id| (Role::Server, id));
    let processes: Vec<(Role, u32)> = server.into_iter().chain([(Role::Client, client.process)]).collect();
    pause(WARM_UP + MARGIN)?;
    let before = Look::take(cores, &processes);
    pause(time.saturating_sub(2 * MARGIN))?;
    let noise = Look::take(cores, &processes).since(&before, cores);
    let io_workers = processes.first().map_or(0, |&(_, process)| io_workers(process));
    let status = client.wait(CLIENT_EXTRA_S)?;
    if client.found_core_taken() {
        return Ok(None);
    }
    if status.is_some_and(|status| status.success()) {
        return Ok(Some(Watched { client, noise, io_workers }));
    }
    Err(Error::Lab(format!("`{}` failed:\n{}", words(line), client.text())))
}

/// Tries until no other poller has the core.
pub(super) fn until_free<T>(core: usize, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + CORE_LIMIT;
    loop {
        if let Some(measured) = attempt()? {
            return Ok(measured);
        }
        if Instant::now() >= deadline {
            return Err(Error::Lab(format!("core {core} is taken by another poller")));
        }
        pause(RETRY)?;
    }
}

fn io_workers(process: u32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { return 0 };
    let names = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    names.filter(|name| name.starts_with(IO_WORKER)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_repeated_only_while_the_core_is_taken() {
        let mut attempts = 0;
        let mut attempt = || {
            attempts += 1;
            Ok((attempts == 2).then_some(attempts))
        };
        assert_eq!(until_free(0, &mut attempt).unwrap(), 2);
        assert!(until_free(0, || Err::<Option<()>, _>(Error::Interrupted)).is_err());
    }
}
